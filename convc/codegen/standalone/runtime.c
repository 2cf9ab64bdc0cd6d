/* The C interface of a standalone model: memory, threads, the layout of parameters, the choice of the code.
 *
 * This file is no translation unit of its own. The generated model.c defines the types and numbers of the model (see
 * tables.py), includes its public header, and then this file. API(run) is the public name PREFIX_run, and MODEL the
 * public type. Everything else is static, or local to the library by its version script.
 */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* The native half of the thread pool, convc/codegen/llvm/spmd.py. */
extern void convc_worker(void *control, int64_t rank);
extern void convc_launch(void *control, step_function *step, void *context);
extern void convc_stop(void *control);
extern void convc_relax(int64_t rounds);

#define MOST_THREADS 1024
#define SPIN_SECONDS 0.005 /* how long a thread polls before it sleeps: a wake-up costs some 50 microseconds */
#define CROWDED_ROUNDS 20  /* with more threads than processors, whoever polls keeps the others from running */
#define HUGE_PAGE ((size_t)2 << 20)

struct worker {
    void *control;
    int64_t rank;
};

struct MODEL {
    int64_t context[CONTEXT_WORDS]; /* the argument block of the step */
    const struct tier *tier;
    int threads;                    /* the caller's among them */
    int running;                    /* workers that have been started */
    pid_t process;                  /* the process that they run in */
    int stale;                      /* whether a parameter has been set since what depends on parameters was computed */
    int64_t spin;                   /* rounds */
    unsigned char *control, *persistent, *arena;
    void *memory[3]; /* what was allocated for these */
    struct worker *workers;
    pthread_t *handles;
    pthread_mutex_t lock;
#if TRAINS
    int64_t steps, seed;
    int64_t waiting_batches, waiting_rows; /* of the update that is under way */
    int update_now;
    int idle; /* updates that were skipped in a row, at a loss scale that cannot fall any further */
#endif
};

static _Thread_local char last_error[512];

/* Keep a message for API(error); returns -1. */
__attribute__((format(printf, 1, 2))) static int failed(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    return -1;
}

const char *API(error)(void) { return last_error; }

/* Processors */

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t enabled_states(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Whether processor and system run the code of a tier: 0 baseline, 1 x86-64-v3, 2 x86-64-v4. */
static int processor_runs(int level) {
    const uint32_t fma = 1u << 12, movbe = 1u << 22, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    const uint32_t bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8, lzcnt = 1u << 5;
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31; /* F, DQ, CD, BW, VL */
    const uint32_t first = fma | movbe | osxsave | avx | f16c, seventh = bmi1 | avx2 | bmi2;
    unsigned a, b, c, d;
    if (level == 0) return 1;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & first) != first) return 0;
    if ((enabled_states() & 0x06) != 0x06) return 0; /* registers that the system saves: xmm, ymm */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & seventh) != seventh) return 0;
    if (level >= 2 && ((b & avx512) != avx512 || (enabled_states() & 0xe6) != 0xe6)) return 0; /* zmm, masks */
    if (level == 3 && !(c & 1u << 11)) return 0; /* AVX512-VNNI */
    if (level == 4 && (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1u << 5))) return 0; /* AVX512-BF16 */
    return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & lzcnt) == lzcnt;
}
#else
static int processor_runs(int level) { return level == 0; }
#endif

/* The best tier that this processor runs, or the one that the environment names; NULL with a message for none. */
static const struct tier *choose_tier(void) {
    const char *wanted = getenv("CONVC_CPU");
    const int count = (int)(sizeof tiers / sizeof tiers[0]);
    if (wanted && *wanted) {
        int known = 0;
        for (int i = 0; i < count; i++) {
            if (strcmp(tiers[i].name, wanted) != 0 && strcmp(tiers[i].tier, wanted) != 0) continue;
            if (processor_runs(tiers[i].level)) return &tiers[i];
            known = 1;
        }
        if (known)
            failed("this processor cannot run the CPU tier '%.40s' that CONVC_CPU asks for", wanted);
        else
            failed("CONVC_CPU=%.40s: the library has code for %s", wanted, TIER_NAMES);
        return NULL;
    }
    for (int i = 0; i < count; i++)
        if (processor_runs(tiers[i].level)) return &tiers[i];
    failed("the library has code for %s, which this processor cannot run", TIER_NAMES);
    return NULL;
}

/* Memory */

/* Zeroed memory, aligned to at least 64 bytes; `*allocated` is what to free. NULL when there is none. */
static unsigned char *allocate(int64_t size, void **allocated) {
    const size_t alignment = CONTROL_ALIGNMENT > 64 ? CONTROL_ALIGNMENT : 64;
    unsigned char *memory = calloc((size_t)size + alignment, 1), *aligned;
    *allocated = memory;
    if (memory == NULL) return NULL;
    aligned = (unsigned char *)(((uintptr_t)memory + alignment - 1) / alignment * alignment);
#ifdef MADV_HUGEPAGE
    if ((size_t)size >= 2 * HUGE_PAGE) {
        uintptr_t page = ((uintptr_t)aligned + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        uintptr_t end = ((uintptr_t)aligned + (size_t)size) / HUGE_PAGE * HUGE_PAGE;
        madvise((void *)page, end - page, MADV_HUGEPAGE); /* a wish: nothing depends on it */
    }
#endif
    return aligned;
}

static float *place_of(const MODEL *model, struct place place) {
    if (place.region == IN_INPUT) return (float *)((unsigned char *)(intptr_t)model->context[WORD_INPUT] + place.offset);
    return (float *)((place.region == IN_PERSISTENT ? model->persistent : model->arena) + place.offset);
}

/* All numbers of a parameter at once. */
static void spread(MODEL *model, int index, float value) {
    const struct place place = model->tier->parameters[index];
    float *stored = place_of(model, place);
    EACH_ELEMENT(&place.layout, i, j, stored[i] = j < 0 ? 0.0f : value);
}

/* Threads */

static void *work(void *argument) {
    const struct worker *worker = argument;
    convc_worker(worker->control, worker->rank);
    return NULL;
}

static void stop_workers(MODEL *model) {
    /* The child of a fork has none of the threads. */
    if (model->running && model->process == getpid()) {
        convc_stop(model->control);
        for (int i = 0; i < model->running; i++) pthread_join(model->handles[i], NULL);
    }
    model->running = 0;
}

/* Put the control block into its first state and start the workers. */
static int start_workers(MODEL *model) {
    sigset_t all, before;
    int code = 0;
    memset(model->control, 0, CONTROL_SIZE);
    *(int64_t *)(model->control + CONTROL_PARTIES) = model->threads;
    *(int64_t *)(model->control + CONTROL_BARRIER_SPIN) = model->spin;
    *(int64_t *)(model->control + CONTROL_IDLE_SPIN) = model->spin;
    model->process = getpid();
    model->running = 0;
    /* Signals are for the threads of the application. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 0; i < model->threads - 1 && code == 0; i++) {
        model->workers[i] = (struct worker){model->control, i + 1};
        code = pthread_create(&model->handles[i], NULL, work, &model->workers[i]);
        if (code == 0) model->running++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code == 0) return 0;
    stop_workers(model);
    return failed("cannot start %d threads: %s", model->threads, strerror(code));
}

/* The processors that this process may use: its affinity mask, cut down to the quota of its control group. */
static int usable_processors(void) {
    cpu_set_t *set = CPU_ALLOC(8192);
    const size_t size = CPU_ALLOC_SIZE(8192);
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    if (set != NULL && sched_getaffinity(0, size, set) == 0) count = CPU_COUNT_S(size, set);
    if (set != NULL) CPU_FREE(set);
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (file != NULL) {
        double quota, period;
        if (fscanf(file, "%lf %lf", &quota, &period) == 2 && period > 0 && ceil(quota / period) < (double)count)
            count = (long)ceil(quota / period);
        fclose(file);
    }
    return count < 1 ? 1 : count > MOST_THREADS ? MOST_THREADS : (int)count;
}

/* How many rounds of polling take SPIN_SECONDS here: `pause` is 5 ns on some processors and 50 on others. */
static int64_t spin_rounds(int threads) {
    const int64_t rounds = 4096;
    double best = 1e9;
    if (threads > usable_processors()) return CROWDED_ROUNDS;
    for (int i = 0; i < 3; i++) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        convc_relax(rounds);
        clock_gettime(CLOCK_MONOTONIC, &end);
        const double seconds = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
        if (seconds < best) best = seconds;
    }
    best /= (double)rounds;
    return (int64_t)(SPIN_SECONDS / (best > 1e-9 ? best : 1e-9));
}

/* Life */

/* Numbers of a type as floats. They may be widened where they lie. */
static void widen(const void *numbers, float *values, int type, int64_t size) {
    const unsigned char *bytes = numbers;
    if (type == TYPE_F32 && numbers != (const void *)values) memcpy(values, numbers, (size_t)size * sizeof(float));
    if (type == TYPE_F32) return;
    /* From the end, so that none is overwritten before it has been read. */
    for (int64_t i = size - 1; i >= 0; i--) {
        const uint32_t half = (uint32_t)bytes[2 * i] | (uint32_t)bytes[2 * i + 1] << 8;
        const uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
        uint32_t bits = half << 16;
        float value;
        if (type == TYPE_F16) {
            if (exponent == 0) { /* multiples of 2^-24 */
                value = ldexpf((float)fraction, -24);
                memcpy(&bits, &value, sizeof bits);
                bits |= sign;
            } else {
                bits = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
            }
        }
        memcpy(&values[i], &bits, sizeof bits);
    }
}

/* Weights of 8 bits as floats: the step of each output comes first, then their whole numbers. */
static void widen_whole(const unsigned char *numbers, float *values, int64_t outputs, int64_t size) {
    const signed char *whole = (const signed char *)(numbers + outputs * (int64_t)sizeof(float));
    const int64_t each = outputs > 0 ? size / outputs : 0;
    for (int64_t i = 0; i < outputs; i++) {
        float step;
        memcpy(&step, numbers + i * (int64_t)sizeof step, sizeof step);
        for (int64_t j = 0; j < each; j++) values[i * each + j] = (float)whole[i * each + j] * step;
    }
}

#include "safetensors.c"

/* Weights of a file, or those inside; constants; first values of what training keeps. */
static int fill(MODEL *model, const char *weights) {
    const struct tier *tier = model->tier;
    for (int64_t i = 0; i < tier->constant_count; i++) {
        const struct constant *constant = &tier->constants[i];
        memcpy(model->persistent + constant->offset, convc_data + constant->data, (size_t)constant->bytes);
    }
    for (int i = 0; i < PARAMETERS; i++)
        if (parameters[i].first != 0) spread(model, i, parameters[i].first);
    if (weights != NULL) return load_weights(model, weights);
    for (int i = 0; i < PARAMETERS; i++) {
        if (parameters[i].data < 0) continue;
        const unsigned char *numbers = convc_data + parameters[i].data;
        if (parameters[i].type == TYPE_F32) {
            pack(&tier->parameters[i].layout, (const float *)numbers, place_of(model, tier->parameters[i]));
            continue;
        }
        float *values = malloc((size_t)parameters[i].size * sizeof(float));
        if (values == NULL) return failed("out of memory");
        if (parameters[i].type == TYPE_QW8)
            widen_whole(numbers, values, parameters[i].shape[0], parameters[i].size);
        else
            widen(numbers, values, parameters[i].type, parameters[i].size);
        pack(&tier->parameters[i].layout, values, place_of(model, tier->parameters[i]));
        free(values);
    }
    return 0;
}

MODEL *API(create)(int threads, const char *weights) {
    MODEL *model;
    const struct tier *tier = choose_tier();
    if (tier == NULL) return NULL;
    if (threads < 0 || threads > MOST_THREADS) {
        failed("threads=%d: a number between 1 and %d is needed, or 0 for all processors", threads, MOST_THREADS);
        return NULL;
    }
    if (weights == NULL && !WEIGHTS_INSIDE) {
        failed("no weights are inside this library: the path of a safetensors file is needed");
        return NULL;
    }
    if (threads == 0) threads = usable_processors();
    model = calloc(1, sizeof *model);
    if (model == NULL) {
        failed("out of memory");
        return NULL;
    }
    model->tier = tier;
    model->threads = threads;
    model->stale = tier->prepares;
    pthread_mutex_init(&model->lock, NULL);
    model->workers = calloc((size_t)threads, sizeof *model->workers);
    model->handles = calloc((size_t)threads, sizeof *model->handles);
    model->control = allocate(CONTROL_SIZE, &model->memory[0]);
    model->persistent = allocate(tier->persistent_bytes, &model->memory[1]);
    model->arena = allocate(tier->arena_bytes, &model->memory[2]);
    if (!model->workers || !model->handles || !model->control || !model->persistent || !model->arena) {
        failed("out of memory: the model takes %lld bytes", (long long)(tier->persistent_bytes + tier->arena_bytes));
        API(destroy)(model);
        return NULL;
    }
    model->context[WORD_CONTROL] = (int64_t)(intptr_t)model->control;
    model->context[WORD_PERSISTENT] = (int64_t)(intptr_t)model->persistent;
    model->context[WORD_ARENA] = (int64_t)(intptr_t)model->arena;
    model->context[WORD_LAST] = INT32_MAX; /* all phases */
    model->spin = threads > 1 ? spin_rounds(threads) : 0;
#if TRAINS
    model->seed = SEED;
#endif
    if (fill(model, weights) != 0 || start_workers(model) != 0) {
        API(destroy)(model);
        return NULL;
    }
    return model;
}

void API(destroy)(MODEL *model) {
    if (model == NULL) return;
    stop_workers(model);
    for (int i = 0; i < 3; i++) free(model->memory[i]);
    free(model->workers);
    free(model->handles);
    pthread_mutex_destroy(&model->lock);
    free(model);
}

int API(threads)(const MODEL *model) { return model == NULL ? failed("no model was given") : model->threads; }

const char *API(cpu)(const MODEL *model) {
    if (model != NULL) return model->tier->name;
    failed("no model was given");
    return NULL;
}

/* Running */

/* Run sections of the step on `rows` images; the caller holds the lock. */
static int launch(MODEL *model, int64_t sections, const float *images, int rows) {
    if (model->process != getpid() && start_workers(model) != 0) return -1;
    model->context[WORD_SECTIONS] = sections | (model->stale ? SECTION_PREPARE : 0);
    model->context[WORD_ROWS] = rows;
    model->context[WORD_INPUT] = (int64_t)(intptr_t)images;
    convc_launch(model->control, model->tier->step, model->context);
    model->stale = 0;
    return 0;
}

static int check_images(const MODEL *model, const float *images, int n) {
    if (model == NULL) return failed("no model was given");
    if (images == NULL) return failed("no images were given");
    if (n < 1 || n > BATCH) return failed("n=%d: the model takes 1 to %d images at a time", n, BATCH);
    return 0;
}

int API(run)(MODEL *model, const float *images, float *outputs, int n) {
    int code;
    if (check_images(model, images, n) != 0) return -1;
    if (outputs == NULL) return failed("no room for the outputs was given");
    pthread_mutex_lock(&model->lock);
#if TRAINS
    model->context[WORD_SEED] = model->seed;
    model->context[WORD_STEP] = model->steps + 1;
    model->context[WORD_SEEN] = model->waiting_rows;
#endif
    code = launch(model, SECTION_FORWARD, images, n);
    if (code == 0) {
        const struct place output = model->tier->output;
        const float *stored = place_of(model, output);
        for (int row = 0; row < n; row++)
            unpack(&output.layout, stored + row * output.layout.pixels * output.layout.stored,
                   outputs + (int64_t)row * OUTPUT_SIZE);
    }
    pthread_mutex_unlock(&model->lock);
    return code;
}

/* Parameters */

int API(parameters)(void) { return PARAMETERS; }

static int check_parameter(int index) {
    if (index >= 0 && index < PARAMETERS) return 0;
    return failed("parameter %d: the model has %d, counted from 0", index, PARAMETERS);
}

int API(parameter_index)(const char *name) {
    for (int i = 0; name != NULL && i < PARAMETERS; i++)
        if (strcmp(parameters[i].name, name) == 0) return i;
    return failed("there is no parameter '%.200s'", name == NULL ? "" : name);
}

const char *API(parameter_name)(int index) { return check_parameter(index) == 0 ? parameters[index].name : NULL; }

int API(parameter_rank)(int index) { return check_parameter(index) == 0 ? parameters[index].rank : -1; }

const int64_t *API(parameter_shape)(int index) { return check_parameter(index) == 0 ? parameters[index].shape : NULL; }

int64_t API(parameter_size)(int index) { return check_parameter(index) == 0 ? parameters[index].size : -1; }

int API(get_parameter)(MODEL *model, int index, float *values) {
    if (model == NULL) return failed("no model was given");
    if (check_parameter(index) != 0) return -1;
    if (values == NULL) return failed("no room for the values was given");
    pthread_mutex_lock(&model->lock);
    unpack(&model->tier->parameters[index].layout, place_of(model, model->tier->parameters[index]), values);
    pthread_mutex_unlock(&model->lock);
    return 0;
}

int API(set_parameter)(MODEL *model, int index, const float *values) {
    if (model == NULL) return failed("no model was given");
    if (check_parameter(index) != 0) return -1;
    if (values == NULL) return failed("no values were given");
    pthread_mutex_lock(&model->lock);
    pack(&model->tier->parameters[index].layout, values, place_of(model, model->tier->parameters[index]));
    model->stale = model->tier->prepares;
    pthread_mutex_unlock(&model->lock);
    return 0;
}

#if TRAINS
#include "training.c"
#endif

/* Training steps of a standalone model: the part of runtime.c for --mode train. */

#include "schedule.c"
#if SCALED
#include "scaled_steps.c"
#endif

static float number_of(const MODEL *model, struct number number) {
    return number.constant ? number.value : *place_of(model, number.place);
}

static int check_labels(const LABEL *labels, int n) {
    if (labels == NULL) return failed("no labels were given");
#if LABELS_ARE_CLASSES
    for (int64_t i = 0; i < (int64_t)n * LABEL_SIZE; i++)
        if (labels[i] < 0 || labels[i] >= CLASSES)
            return failed("label %d is out of range: the net has %d outputs, 0 to %d", (int)labels[i], CLASSES,
                          CLASSES - 1);
#else
    (void)n;
#endif
    return 0;
}

int API(step)(MODEL *model, const float *images, const LABEL *labels, int n, float learning_rate, float *loss,
              float *correct) {
    int code;
    if (check_images(model, images, n) != 0 || check_labels(labels, n) != 0) return -1;
    if (!isfinite(learning_rate)) return failed("the learning rate is not a finite number");
    pthread_mutex_lock(&model->lock);
    const int complete = model->update_now || model->waiting_batches + 1 >= ACCUMULATE;
    model->context[WORD_LABELS] = (int64_t)(intptr_t)labels;
    model->context[WORD_SEED] = model->seed;
    model->context[WORD_STEP] = model->steps + 1;
    model->context[WORD_SEEN] = model->waiting_rows;
    memcpy(&model->context[WORD_RATE], &learning_rate, sizeof learning_rate);
#if SCALED
    const float skipped = state_of(model, SKIPPED_UPDATES); /* somebody may have set it */
#endif
    code = launch(model, complete ? SECTIONS_EVERYTHING : SECTIONS_BATCH, images, n);
    if (code == 0) {
#if SCALED
        model->steps += complete && took_place(model, skipped);
        if (complete) code = check_scale(model);
#else
        model->steps += complete;
#endif
        model->waiting_batches = complete ? 0 : model->waiting_batches + 1;
        model->waiting_rows = complete ? 0 : model->waiting_rows + n;
        model->update_now = 0;
        if (loss != NULL) *loss = number_of(model, model->tier->loss);
        if (correct != NULL) *correct = number_of(model, model->tier->correct);
    }
    pthread_mutex_unlock(&model->lock);
    return code;
}

int API(update_now)(MODEL *model) {
    if (model == NULL) return failed("no model was given");
    pthread_mutex_lock(&model->lock);
    model->update_now = 1;
    pthread_mutex_unlock(&model->lock);
    return 0;
}

int64_t API(steps)(const MODEL *model) { return model == NULL ? failed("no model was given") : model->steps; }

int API(set_steps)(MODEL *model, int64_t steps) {
    if (model == NULL) return failed("no model was given");
    if (steps < 0) return failed("steps=%lld: a number of at least 0 is needed", (long long)steps);
    pthread_mutex_lock(&model->lock);
    model->steps = steps;
    model->waiting_batches = model->waiting_rows = 0;
    model->update_now = model->idle = 0;
    pthread_mutex_unlock(&model->lock);
    return 0;
}

float API(loss_scale)(MODEL *model) {
    if (model == NULL) return (float)failed("no model was given");
#if SCALED
    pthread_mutex_lock(&model->lock);
    const float scale = state_of(model, LOSS_SCALE);
    pthread_mutex_unlock(&model->lock);
    return scale;
#else
    return 1;
#endif
}

int64_t API(skipped_steps)(MODEL *model) {
    if (model == NULL) return failed("no model was given");
#if SCALED
    pthread_mutex_lock(&model->lock);
    const int64_t skipped = (int64_t)state_of(model, SKIPPED_UPDATES);
    pthread_mutex_unlock(&model->lock);
    return skipped;
#else
    return 0;
#endif
}

int API(set_seed)(MODEL *model, int64_t seed) {
    if (model == NULL) return failed("no model was given");
    if (seed < 0) return failed("seed=%lld: a number of at least 0 is needed", (long long)seed);
    pthread_mutex_lock(&model->lock);
    model->seed = seed;
    pthread_mutex_unlock(&model->lock);
    return 0;
}

/* infer THREADS WEIGHTS|- N...: images from the standard input, logits to the standard output, in runs of N images.
 *
 * Two models are made; they take turns in the runs, in threads of their own at the end.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

static float images[NET_BATCH * NET_IMAGE_SIZE], outputs[NET_BATCH * NET_OUTPUT_SIZE];

static void die(void) {
    fprintf(stderr, "%s\n", net_error());
    exit(1);
}

struct task {
    net_model *model;
    int n, wrong;
};

static void *again(void *argument) {
    struct task *task = argument;
    float *own = malloc(sizeof outputs);
    for (int i = 0; i < 20; i++)
        if (net_run(task->model, images, own, task->n) != 0 || memcmp(own, outputs, sizeof(float) * task->n * NET_OUTPUT_SIZE))
            task->wrong++;
    free(own);
    return NULL;
}

int main(int count, char **arguments) {
    const char *weights = strcmp(arguments[2], "-") ? arguments[2] : NULL;
    net_model *models[2];
    int n = 0;
    for (int i = 0; i < 2; i++)
        if ((models[i] = net_create(atoi(arguments[1]), weights)) == NULL) die();
    fprintf(stderr, "%s %d\n", net_cpu(models[0]), net_threads(models[0]));
    for (int i = 3; i < count; i++) {
        n = atoi(arguments[i]);
        if (fread(images, sizeof(float) * NET_IMAGE_SIZE, n, stdin) != (size_t)n) return 3;
        if (net_run(models[i % 2], images, outputs, n) != 0) die();
        fwrite(outputs, sizeof(float) * NET_OUTPUT_SIZE, n, stdout);
    }
    struct task tasks[3] = {{models[0], n, 0}, {models[1], n, 0}, {models[1], n, 0}};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, again, &tasks[i]);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    net_destroy(models[0]);
    if (net_run(models[1], images, outputs, n) != 0) die();
    net_destroy(models[1]);
    return tasks[0].wrong || tasks[1].wrong || tasks[2].wrong ? 4 : 0;
}

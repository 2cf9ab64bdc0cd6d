/* train THREADS RATE N...: steps with batches of N from the standard input (images, then labels, of each); to the standard
 * output go loss and count of each step, the logits of the last images, and all parameters. A negative N ends the update.
 */
#include <stdio.h>
#include <stdlib.h>

#include "net.h"

#ifndef LABEL
#define LABEL int32_t
#endif

static float images[NET_BATCH * NET_IMAGE_SIZE], outputs[NET_BATCH * NET_OUTPUT_SIZE];
static LABEL labels[NET_BATCH * NET_LABEL_SIZE];

static void die(void) {
    fprintf(stderr, "%s\n", net_error());
    exit(1);
}

int main(int count, char **arguments) {
    net_model *model = net_create(atoi(arguments[1]), NULL);
    int n = 0;
    if (model == NULL) die();
    for (int i = 3; i < count; i++) {
        float said[2];
        n = atoi(arguments[i]);
        if (n < 0 && net_update_now(model) != 0) die();
        n = abs(n);
        if (fread(images, sizeof(float) * NET_IMAGE_SIZE, n, stdin) != (size_t)n) return 3;
        if (fread(labels, sizeof(LABEL) * NET_LABEL_SIZE, n, stdin) != (size_t)n) return 3;
        if (net_step(model, images, labels, n, (float)atof(arguments[2]), &said[0], &said[1]) != 0) die();
        fwrite(said, sizeof said, 1, stdout);
    }
    fprintf(stderr, "%lld\n", (long long)net_steps(model));
    if (net_run(model, images, outputs, n) != 0) die();
    fwrite(outputs, sizeof(float) * NET_OUTPUT_SIZE, n, stdout);
    for (int i = 0; i < net_parameters(); i++) {
        float *values = malloc(sizeof(float) * net_parameter_size(i));
        if (net_get_parameter(model, i, values) != 0) die();
        fwrite(values, sizeof(float), net_parameter_size(i), stdout);
        free(values);
    }
    /* What is refused changes nothing. */
    if (net_step(NULL, images, labels, n, 0, NULL, NULL) == 0) return 5;
    if (net_step(model, images, NULL, n, 0, NULL, NULL) == 0) return 5;
    fprintf(stderr, "%s\n", net_error());
    if (net_step(model, images, labels, n, 1e30f * 1e30f, NULL, NULL) == 0) return 5;
    fprintf(stderr, "%s\n", net_error());
    if (net_set_steps(model, -1) == 0 || net_set_seed(model, -1) == 0 || net_steps(NULL) != -1) return 5;
    net_destroy(model);
    return 0;
}

/* Train with a library that convc has made, without Python, on images and labels in the format of MNIST (idx, unpacked):
 *
 *     convc compile examples/lenet.cnn --mode train -o libnet.so --header net.h --prefix net
 *     cc -o train examples/standalone/train.c -I. -L. -lnet -Wl,-rpath,'$ORIGIN'
 *     ./train train-images-idx3-ubyte train-labels-idx1-ubyte weights.f32
 *
 * trains as long as the .cnn file says, with its learning rates, and writes all parameters, one after the other, into
 * weights.f32. A fourth argument is another number of epochs. The images come in the order of the file.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "net.h"

static void die(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static long big_endian(FILE *file) {
    long value = 0;
    for (int i = 0; i < 4; i++) value = value << 8 | (getc(file) & 0xff);
    return value;
}

/* The numbers of an idx file of bytes whose items have `size` numbers; `*items` is how many items there are. */
static unsigned char *read_bytes(const char *path, long size, long *items) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    const long kind = big_endian(file), axes = kind & 0xff;
    long numbers = 1;
    if (kind >> 8 != 0x08) die("this is no idx file of bytes");
    *items = big_endian(file);
    for (long axis = 1; axis < axes; axis++) numbers *= big_endian(file);
    if (numbers != size || *items < 1) die("the images or labels do not fit the net");
    unsigned char *bytes = malloc((size_t)(*items * size));
    if (bytes == NULL) die("out of memory");
    if (fread(bytes, (size_t)size, (size_t)*items, file) != (size_t)*items) die("the file is cut short");
    fclose(file);
    return bytes;
}

static void save(net_model *model, const char *path) {
    FILE *file = fopen(path, "wb");
    if (file == NULL) die("the weights cannot be written");
    for (int i = 0; i < net_parameters(); i++) {
        const size_t size = (size_t)net_parameter_size(i);
        float *values = malloc(size * sizeof(float));
        if (values == NULL || net_get_parameter(model, i, values) != 0) die("the weights cannot be read");
        if (fwrite(values, sizeof(float), size, file) != size) die("the weights cannot be written");
        free(values);
    }
    if (fclose(file) != 0) die("the weights cannot be written");
}

int main(int count, char **arguments) {
    static float images[NET_BATCH * NET_IMAGE_SIZE];
    static int32_t labels[NET_BATCH];
    long items, others;
    if (count != 4 && count != 5) die("usage: train IMAGES LABELS WEIGHTS [EPOCHS]");
    const int epochs = count == 5 ? atoi(arguments[4]) : NET_EPOCHS;
    const unsigned char *pixels = read_bytes(arguments[1], NET_IMAGE_SIZE, &items);
    const unsigned char *classes = read_bytes(arguments[2], NET_LABEL_SIZE, &others);
    if (items != others) die("there are not as many labels as images");
    const long batches = (items + NET_BATCH - 1) / NET_BATCH;
    const long updates = (batches + NET_ACCUMULATE - 1) / NET_ACCUMULATE;
    net_model *model = net_create(0, NULL);
    if (model == NULL) die(net_error());
    for (int epoch = 0; epoch < epochs; epoch++) {
        double sum = 0, right = 0;
        for (long first = 0; first < items; first += NET_BATCH) {
            const int n = items - first < NET_BATCH ? (int)(items - first) : NET_BATCH;
            const double now = epoch + (double)(first / NET_BATCH / NET_ACCUMULATE) / (double)updates;
            const double rate = net_learning_rate(now, net_steps(model), updates);
            float loss, correct;
            for (long i = 0; i < (long)n * NET_IMAGE_SIZE; i++)
                images[i] = (float)pixels[first * NET_IMAGE_SIZE + i] * NET_PIXEL_SCALE;
            for (int i = 0; i < n; i++) labels[i] = classes[first + i];
            if (first + n == items && net_update_now(model) != 0) die(net_error());
            if (net_step(model, images, labels, n, (float)rate, &loss, &correct) != 0) die(net_error());
            sum += (double)loss * n;
            right += (double)correct;
        }
        printf("epoch %d: loss %.4f, accuracy %.2f %%\n", epoch + 1, sum / (double)items, 100 * right / (double)items);
    }
    save(model, arguments[3]);
    net_destroy(model);
    return 0;
}

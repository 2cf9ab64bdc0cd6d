/* Classify an image with a library that convc has made, without Python:
 *
 *     convc compile examples/lenet.cnn --weights runs/lenet-1 -o libnet.so --header net.h --prefix net --batch 1
 *     cc -o classify examples/standalone/classify.c -I. -L. -lnet -lm -Wl,-rpath,'$ORIGIN'
 *     ./classify digit.pgm
 *
 * Images are binary PGM or PPM files of the net's size; `convert digit.png -resize 28x28! digit.pgm` makes one.
 */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "net.h"

/* The next number of a header, past spaces and comments; -1 if there is none. */
static int header_number(FILE *file) {
    int c = getc(file), value = -1;
    while (isspace(c) || c == '#') {
        if (c == '#')
            while (c != '\n' && c != EOF) c = getc(file);
        c = getc(file);
    }
    for (; isdigit(c) && value < 100000; c = getc(file)) value = (value < 0 ? 0 : value) * 10 + (c - '0');
    return value; /* one character of space behind it is taken, as the format wants */
}

/* An image file as the net reads it: channel after channel, value / 255. */
static int read_image(const char *path, float *image) {
    const int pixels = NET_HEIGHT * NET_WIDTH;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return -1;
    }
    const int letter = getc(file), kind = getc(file);
    const int channels = letter == 'P' && kind == '5' ? 1 : letter == 'P' && kind == '6' ? 3 : 0;
    const int width = header_number(file), height = header_number(file), largest = header_number(file);
    int read = 0;
    if (channels == NET_CHANNELS && width == NET_WIDTH && height == NET_HEIGHT && largest == 255)
        for (; read < pixels * channels; read++) {
            const int byte = getc(file);
            if (byte == EOF) break;
            image[read % channels * pixels + read / channels] = (float)byte * NET_PIXEL_SCALE;
        }
    fclose(file);
    if (read == pixels * NET_CHANNELS) return 0;
    fprintf(stderr, "%s: not a binary image of %d x %d pixels with %d channels of bytes\n", path, NET_WIDTH, NET_HEIGHT,
            NET_CHANNELS);
    return -1;
}

int main(int count, char **arguments) {
    static const char *const names[] = NET_CLASS_NAMES;
    static float image[NET_IMAGE_SIZE], logits[NET_OUTPUT_SIZE];
    if (count < 2) {
        fprintf(stderr, "usage: %s IMAGE... (weights beside the library: WEIGHTS=FILE.safetensors)\n", arguments[0]);
        return 2;
    }
    net_model *model = net_create(0, getenv("WEIGHTS"));
    if (model == NULL) {
        fprintf(stderr, "%s\n", net_error());
        return 1;
    }
    for (int i = 1; i < count; i++) {
        if (read_image(arguments[i], image) != 0) return 1;
        if (net_run(model, image, logits, 1) != 0) {
            fprintf(stderr, "%s\n", net_error());
            return 1;
        }
        /* Soft-max, from the largest logit so that no power overflows. */
        int best = 0;
        double sum = 0;
        for (int k = 1; k < NET_CLASSES; k++)
            if (logits[k] > logits[best]) best = k;
        for (int k = 0; k < NET_CLASSES; k++) sum += exp(logits[k] - logits[best]);
        printf("%s: %.2f %% %s\n", arguments[i], 100 / sum, names[best]);
    }
    net_destroy(model);
    return 0;
}

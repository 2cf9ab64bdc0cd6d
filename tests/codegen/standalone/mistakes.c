/* Every argument that is refused, one line each: what was returned, and the message. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net.h"

static void line(int code) { printf("%d %s\n", code, net_error()); }

int main(int count, char **arguments) {
    static float images[(NET_BATCH + 1) * NET_IMAGE_SIZE], outputs[NET_BATCH * NET_OUTPUT_SIZE], twice[NET_OUTPUT_SIZE];
    printf("[%s]\n", net_error());
    line(net_create(-1, NULL) == NULL);
    line(net_create(100000, NULL) == NULL);
    for (int i = 1; i < count; i++) line(net_create(1, arguments[i]) == NULL);
    net_model *model = net_create(2, NULL);
    if (model == NULL) return 1;
    line(net_run(NULL, images, outputs, 1));
    line(net_run(model, NULL, outputs, 1));
    line(net_run(model, images, NULL, 1));
    line(net_run(model, images, outputs, 0));
    line(net_run(model, images, outputs, NET_BATCH + 1));
    line(net_parameter_index("nothing"));
    line(net_parameter_name(net_parameters()) != NULL);
    line(net_parameter_shape(-1) != NULL);
    line(net_parameter_rank(-1));
    line((int)net_parameter_size(-1));
    line(net_get_parameter(model, -1, outputs));
    line(net_set_parameter(model, 0, NULL));
    line(net_cpu(NULL) != NULL);
    line(net_threads(NULL));
    net_destroy(NULL);
    /* The child of a fork has no workers, and makes its own. */
    images[5] = 1;
    if (net_run(model, images, outputs, 1) != 0) return 2;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        int same = net_run(model, images, twice, 1) == 0;
        for (int i = 0; i < NET_OUTPUT_SIZE; i++) same = same && twice[i] == outputs[i];
        net_destroy(model);
        _exit(same ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    printf("fork %d\n", status);
    net_destroy(model);
    return 0;
}

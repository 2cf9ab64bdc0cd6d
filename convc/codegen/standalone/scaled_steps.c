/* What a training with a scaled loss does beside its steps: it counts those that were skipped, and gives up in time.
 * convc/runtime/scaled_steps.py has the same, with the reasons. Part of runtime.c. */

/* A state of one number. */
static float state_of(const MODEL *model, int index) { return *place_of(model, model->tier->parameters[index]); }

/* An update is over, before which `skipped` had been skipped. Whether it took place. */
static int took_place(MODEL *model, float skipped) {
    if (state_of(model, SKIPPED_UPDATES) == skipped) {
        model->idle = 0;
        return 1;
    }
    const int falls = SCALE_IS_DYNAMIC && state_of(model, LOSS_SCALE) > LEAST_SCALE;
    model->idle = falls ? 0 : model->idle + 1;
    /* The mean that was not finite is of no use to anybody. */
    for (int i = 0; i < PARAMETERS; i++)
        if (parameters[i].accumulates) spread(model, i, 0);
    return 0;
}

/* Whether there is hope: a failure where too many updates in a row were skipped. */
static int check_scale(const MODEL *model) {
    if (model->idle < PATIENCE) return 0;
    return failed("%d updates in a row were skipped: gradients are not finite at loss scale %g", model->idle,
                  (double)state_of(model, LOSS_SCALE));
}

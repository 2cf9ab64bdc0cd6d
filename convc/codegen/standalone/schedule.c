/* The learning rate as a function of time. convc/frontend/schedule.py has the same, with the reasons. Part of runtime.c. */

struct clock {
    double epoch, step, steps_per_epoch;
};

static double steps_of(struct duration duration, const struct clock *clock) {
    return duration.value * (duration.in_epochs ? clock->steps_per_epoch : 1);
}

static double along_cosine(double start, double end, double fraction) {
    return end + (start - end) * (1 + cos(M_PI * fraction)) / 2;
}

/* From 0 after the warm-up to 1 at the end of the training. */
static double progress_of(const struct clock *clock) {
    const double start = steps_of(schedule.warmup, clock) / clock->steps_per_epoch;
    return fmin(1, fmax(0, (clock->epoch - start) / fmax(schedule.epochs - start, 1e-12)));
}

static int is_before(const struct clock *clock, double epochs, double steps) {
    if (steps == 0) return clock->epoch < epochs;
    if (epochs == 0) return clock->step < steps;
    return clock->epoch * clock->steps_per_epoch < epochs * clock->steps_per_epoch + steps;
}

static double segment_rate(const struct clock *clock) {
    double epochs = 0, steps = 0;
    for (int i = 0; i < schedule.segment_count; i++) {
        const struct segment segment = schedule.segments[i];
        if (!segment.ends) return segment.rate;
        *(segment.duration.in_epochs ? &epochs : &steps) += segment.duration.value;
        if (is_before(clock, epochs, steps)) return segment.rate;
    }
    return schedule.segments[schedule.segment_count - 1].rate;
}

static double scheduled_rate(const struct clock *clock) {
    const double base = schedule.base, floor_rate = schedule.floor;
    double fraction;
    switch (schedule.kind) {
    case KIND_RATES:
        return segment_rate(clock);
    case KIND_STEP:
        fraction = (schedule.every.in_epochs ? clock->epoch : clock->step) / schedule.every.value;
        return base * pow(schedule.gamma, floor(fraction));
    case KIND_COSINE:
        return along_cosine(base, floor_rate, progress_of(clock));
    case KIND_POLY:
        return floor_rate + (base - floor_rate) * pow(1 - progress_of(clock), schedule.power);
    case KIND_ONECYCLE:
        fraction = clock->epoch / schedule.epochs;
        if (fraction < 0.3) return along_cosine(schedule.maximum / 25, schedule.maximum, fraction / 0.3);
        return along_cosine(schedule.maximum, schedule.maximum / 25e4, fmin(1, (fraction - 0.3) / (1 - 0.3)));
    default:
        return base;
    }
}

double API(learning_rate)(double epoch, int64_t steps, int64_t steps_per_epoch) {
    const struct clock clock = {epoch, (double)steps, (double)(steps_per_epoch < 1 ? 1 : steps_per_epoch)};
    const double position = schedule.warmup.in_epochs ? clock.epoch * clock.steps_per_epoch : clock.step;
    return fmin(1, (position + 1) / (steps_of(schedule.warmup, &clock) + 1)) * scheduled_rate(&clock);
}

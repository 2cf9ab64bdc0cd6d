/* How parameters and results lie in memory. convc/passes/layout.py has the same, with the reasons. Part of runtime.c. */

/* outputs = 0: an image or a vector, `stored` channels for each of its pixels. Otherwise packed weights. */
struct layout {
    int64_t channels, pixels, stored, outputs, groups, columns, block;
};

static int64_t feature_of(const struct layout *layout, int64_t row) {
    const int64_t pixel = row / layout->stored, channel = row % layout->stored;
    return channel < layout->channels ? channel * layout->pixels + pixel : -1;
}

/* Calls `visit(stored index, logical index or -1)` for all elements in the stored order. */
#define EACH_ELEMENT(layout, stored_index, logical_index, visit)                                                      \
    do {                                                                                                              \
        const int64_t rows_ = (layout)->pixels * (layout)->stored;                                                    \
        int64_t stored_index = 0;                                                                                     \
        if ((layout)->outputs == 0) {                                                                                 \
            for (; stored_index < rows_; stored_index++) {                                                            \
                const int64_t logical_index = feature_of((layout), stored_index);                                     \
                visit;                                                                                                \
            }                                                                                                         \
            break;                                                                                                    \
        }                                                                                                             \
        const int64_t own_ = (layout)->outputs / (layout)->groups, features_ = (layout)->channels * (layout)->pixels; \
        for (int64_t group_ = 0; group_ < (layout)->groups; group_++)                                                 \
            for (int64_t first_ = 0; first_ < (layout)->columns; first_ += (layout)->block) {                         \
                const int64_t left_ = (layout)->columns - first_;                                                     \
                const int64_t width_ = left_ < (layout)->block ? left_ : (layout)->block;                             \
                for (int64_t row_ = 0; row_ < rows_; row_++) {                                                        \
                    const int64_t feature_ = feature_of((layout), row_);                                              \
                    for (int64_t column_ = 0; column_ < width_; column_++, stored_index++) {                          \
                        const int64_t output_ = group_ * own_ + first_ + column_;                                     \
                        const int64_t logical_index =                                                                 \
                            feature_ >= 0 && first_ + column_ < own_ ? output_ * features_ + feature_ : -1;           \
                        visit;                                                                                        \
                    }                                                                                                 \
                }                                                                                                     \
            }                                                                                                         \
    } while (0)

static void pack(const struct layout *layout, const float *logical, float *stored) {
    EACH_ELEMENT(layout, i, j, stored[i] = j < 0 ? 0.0f : logical[j]);
}

static void unpack(const struct layout *layout, const float *stored, float *logical) {
    EACH_ELEMENT(layout, i, j, if (j >= 0) logical[j] = stored[i]);
}

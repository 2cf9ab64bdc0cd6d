/* Weights from a safetensors file: eight bytes of length, a JSON header, the numbers. Part of runtime.c.
 *
 * The header is {"NAME": {"dtype": "F32", "shape": [64, 3], "data_offsets": [0, 768]}, "__metadata__": {…}, …}. The file is
 * not trusted: every length is compared with what is there before it is used. Numbers are F32, F16 or BF16.
 */
#define MOST_HEADER ((uint64_t)100 << 20) /* what the format allows, too */
#define LONGEST_NAME 1024
#define MOST_AXES 8

struct json {
    const char *at, *end;
};

struct entry {
    char name[LONGEST_NAME], type[16];
    int rank;
    int64_t shape[MOST_AXES], begin, end;
};

static void skip_space(struct json *json) {
    while (json->at < json->end && strchr(" \t\r\n", *json->at) && *json->at) json->at++;
}

/* Whether `character` comes next; if so it is taken. */
static int take(struct json *json, char character) {
    skip_space(json);
    if (json->at >= json->end || *json->at != character) return 0;
    json->at++;
    return 1;
}

static int hexadecimal(struct json *json) {
    int value = 0;
    if (json->end - json->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        const char c = *json->at++;
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* A text into `room` as UTF-8, cut off where it is longer; 0 if there is no well-formed one. */
static int take_text(struct json *json, char *room, size_t size) {
    size_t length = 0;
    if (!take(json, '"')) return 0;
    while (json->at < json->end && *json->at != '"') {
        unsigned char bytes[3];
        int count = 1, code;
        bytes[0] = (unsigned char)*json->at++;
        if (bytes[0] == '\\') {
            static const char written[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
            const char *found;
            if (json->at >= json->end) return 0;
            const char escape = *json->at++;
            if (escape == 'u') {
                if ((code = hexadecimal(json)) < 0) return 0;
                /* Halves of pairs stay halves: no parameter has such a name. */
                count = code < 0x80 ? 1 : code < 0x800 ? 2 : 3;
                bytes[0] = (unsigned char)(count == 1 ? code : count == 2 ? 0xc0 | code >> 6 : 0xe0 | code >> 12);
                bytes[count - 1] = (unsigned char)(count == 1 ? code : 0x80 | (code & 0x3f));
                if (count == 3) bytes[1] = (unsigned char)(0x80 | (code >> 6 & 0x3f));
            } else {
                if (escape == 0 || (found = strchr(written, escape)) == NULL) return 0;
                bytes[0] = (unsigned char)meant[found - written];
            }
        }
        for (int i = 0; i < count; i++)
            if (length + 1 < size) room[length++] = (char)bytes[i];
    }
    room[length] = 0;
    return take(json, '"');
}

static int take_whole(struct json *json, int64_t *value) {
    const char *start;
    skip_space(json);
    start = json->at;
    for (*value = 0; json->at < json->end && *json->at >= '0' && *json->at <= '9'; json->at++) {
        if (*value > (INT64_MAX - 9) / 10) return 0;
        *value = *value * 10 + (*json->at - '0');
    }
    return json->at > start;
}

/* A list of whole numbers; their count, or -1. */
static int take_list(struct json *json, int64_t *values, int most) {
    int count = 0;
    if (!take(json, '[')) return -1;
    if (take(json, ']')) return 0;
    do {
        if (count == most || !take_whole(json, &values[count++])) return -1;
    } while (take(json, ','));
    return take(json, ']') ? count : -1;
}

/* Pass by a value of any kind. */
static int skip_value(struct json *json) {
    static const char marks[] = "{}[],:\" \t\r\n";
    char ignored[1];
    int depth = 0;
    for (;;) {
        skip_space(json);
        if (json->at >= json->end) return 0;
        const char c = *json->at;
        if (c == '{' || c == '[') {
            depth++;
            json->at++;
            continue;
        }
        if (c == ',' || c == ':') {
            if (depth == 0) return 0;
            json->at++;
            continue;
        }
        if (c == '"') {
            if (!take_text(json, ignored, sizeof ignored)) return 0;
        } else if (c == '}' || c == ']') {
            if (--depth < 0) return 0;
            json->at++;
        } else { /* a number, true, false, null */
            while (json->at < json->end && (*json->at == 0 || strchr(marks, *json->at) == NULL)) json->at++;
        }
        if (depth == 0) return 1;
    }
}

/* What a tensor's entry says; 0 if it is not of the form above. */
static int take_entry(struct json *json, struct entry *entry) {
    char key[16];
    int64_t offsets[2] = {0, -1};
    entry->rank = -1;
    entry->type[0] = 0;
    if (!take(json, '{')) return 0;
    do {
        if (!take_text(json, key, sizeof key) || !take(json, ':')) return 0;
        if (strcmp(key, "dtype") == 0) {
            if (!take_text(json, entry->type, sizeof entry->type)) return 0;
        } else if (strcmp(key, "shape") == 0) {
            if ((entry->rank = take_list(json, entry->shape, MOST_AXES)) < 0) return 0;
        } else if (strcmp(key, "data_offsets") == 0) {
            if (take_list(json, offsets, 2) != 2) return 0;
        } else if (!skip_value(json)) {
            return 0;
        }
    } while (take(json, ','));
    entry->begin = offsets[0];
    entry->end = offsets[1];
    return take(json, '}') && entry->rank >= 0 && entry->end >= entry->begin;
}

static int type_of(const char *name) {
    return strcmp(name, "F32") == 0 ? TYPE_F32 : strcmp(name, "F16") == 0 ? TYPE_F16 : strcmp(name, "BF16") == 0 ? TYPE_BF16 : -1;
}

/* Take the values of one parameter over; `numbers` is where those of the file begin. */
static int load_parameter(MODEL *model, int index, const struct entry *entry, FILE *file, int64_t numbers,
                          const char *path) {
    const struct parameter *parameter = &parameters[index];
    const struct place place = model->tier->parameters[index];
    const size_t size = (size_t)parameter->size;
    const int type = type_of(entry->type);
    const size_t bytes = size * (type == TYPE_F32 ? sizeof(float) : sizeof(uint16_t));
    int same = entry->rank == parameter->rank && type >= 0;
    for (int axis = 0; same && axis < parameter->rank; axis++) same = entry->shape[axis] == parameter->shape[axis];
    if (!same || entry->end - entry->begin != (int64_t)bytes)
        return failed("%.200s: %.200s has another shape or element type than in the net", path, parameter->name);
    float *values = malloc(size * sizeof(float));
    if (values == NULL) return failed("out of memory");
    int code = 0;
    if (fseeko(file, (off_t)(numbers + entry->begin), SEEK_SET) != 0 || fread(values, 1, bytes, file) != bytes)
        code = failed("%.200s: the values of %.200s are not all there", path, parameter->name);
    else
        widen(values, values, type, (int64_t)size);
    for (size_t i = 0; code == 0 && i < size; i++)
        if (!isfinite(values[i]))
            code = failed("%.200s: %.200s holds values that are not finite", path, parameter->name);
    if (code == 0) pack(&place.layout, values, place_of(model, place));
    free(values);
    return code;
}

/* Take over every tensor of the header that the model has; all of its weights must be among them. */
static int load_tensors(MODEL *model, struct json *json, FILE *file, int64_t numbers, int64_t size, const char *path) {
    static const char malformed[] = "%.200s is not a complete safetensors file";
    unsigned char found[PARAMETERS + 1] = {0};
    struct entry entry;
    if (!take(json, '{')) return failed(malformed, path);
    if (!take(json, '}')) {
        do {
            if (!take_text(json, entry.name, sizeof entry.name) || !take(json, ':')) return failed(malformed, path);
            if (strcmp(entry.name, "__metadata__") == 0) {
                if (!skip_value(json)) return failed(malformed, path);
                continue;
            }
            if (!take_entry(json, &entry) || entry.end > size) return failed(malformed, path);
            for (int i = 0; i < PARAMETERS; i++) {
                if (strcmp(parameters[i].name, entry.name) != 0) continue;
                if (load_parameter(model, i, &entry, file, numbers, path) != 0) return -1;
                found[i] = 1;
            }
        } while (take(json, ','));
        if (!take(json, '}')) return failed(malformed, path);
    }
    for (int i = 0; i < PARAMETERS; i++)
        if (parameters[i].needed && !found[i]) return failed("%.200s has no %.200s", path, parameters[i].name);
    return 0;
}

static int load_weights(MODEL *model, const char *path) {
    unsigned char prefix[8];
    uint64_t length = 0;
    int64_t size = 0;
    int code = -1;
    FILE *file = fopen(path, "rb");
    if (file == NULL) return failed("cannot read %.200s: %s", path, strerror(errno));
    if (fread(prefix, 1, 8, file) == 8 && fseeko(file, 0, SEEK_END) == 0) size = (int64_t)ftello(file) - 8;
    for (int i = 0; i < 8; i++) length |= (uint64_t)prefix[i] << 8 * i;
    if (size <= 0 || length > MOST_HEADER || length > (uint64_t)size) {
        fclose(file);
        return failed("%.200s is not a complete safetensors file", path);
    }
    char *header = malloc((size_t)length + 1);
    if (header == NULL) {
        failed("out of memory");
    } else if (fseeko(file, 8, SEEK_SET) != 0 || fread(header, 1, (size_t)length, file) != length) {
        failed("cannot read %.200s", path);
    } else {
        struct json json = {header, header + length};
        code = load_tensors(model, &json, file, 8 + (int64_t)length, size - (int64_t)length, path);
    }
    free(header);
    fclose(file);
    return code;
}

/* gguf.c: headers of GGUF models.
 *
 * Owns: securereg_gguf_* by value, with tests/data/tiny-llama.gguf and a file of every type of value. Leaves out: hostile
 * GGUFs, which the core's own tests and fuzzers have.
 */
#include "check.h"
#include "kit.h"

#include <stdlib.h>
#include <string.h>

/* gguf_type, as the header numbers them. */
enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

static securereg_registry registry;
static securereg_error error;
static securereg_gguf gguf;

static void begin(void) {
    registry = kit_registry("root");
    kit_promote(registry, kit_data(TINY), "tiny");
    CHECK_OK(securereg_gguf_open(registry, "tiny", NULL, &gguf, &error), &error);
}

static void the_numbers_of_tiny_llama(void) {
    securereg_gguf_info info;
    memset(&info, 0xA5, sizeof info);
    info.size = sizeof info;
    CHECK_OK(securereg_gguf_get(gguf, &info, &error), &error);
    CHECK_INT(info.pair_count, 24);
    CHECK_INT(info.tensor_count, 21);
    CHECK_INT(info.version, 3);
    CHECK_INT(info.alignment, 32);
    CHECK_INT(info.data_offset, 9408); /* 9401, aligned */
    CHECK_INT(info.reserved, 0);
}

static securereg_gguf_pair find(const char *key) {
    securereg_gguf_pair pair;
    memset(&pair, 0xA5, sizeof pair);
    pair.size = sizeof pair;
    CHECK_OK(securereg_gguf_find(gguf, key, &pair, &error), &error);
    return pair;
}

static void the_metadata_of_tiny_llama(void) {
    securereg_gguf_pair pair = {.size = sizeof pair};
    CHECK_OK(securereg_gguf_pair_at(gguf, 0, &pair, &error), &error);
    CHECK_TEXT(pair.key, "general.architecture");
    CHECK_INT(pair.value_type, STRING);
    CHECK_TEXT(pair.data, "llama");
    CHECK_INT(pair.data_size, 5);
    CHECK_INT(pair.count, 1);
    CHECK_INT(pair.array_type, 0);
    CHECK_INT(pair.u64_value, 0);
    CHECK_INT(pair.index, 0);
    CHECK_OK(securereg_gguf_pair_at(gguf, 23, &pair, &error), &error);
    CHECK_TEXT(pair.key, "tokenizer.chat_template");
    CHECK_INT(pair.index, 23);
    CHECK_HAS(pair.data, "{% for m in messages %}");
    CHECK_INT(strlen(pair.data), pair.data_size);

    pair = find("llama.vocab_size");
    CHECK_TEXT(pair.key, "llama.vocab_size");
    CHECK_INT(pair.value_type, U32);
    CHECK_INT(pair.u64_value, 338);
    CHECK(pair.data == NULL && pair.data_size == 0 && pair.count == 1);
    pair = find("llama.attention.layer_norm_rms_epsilon");
    CHECK_INT(pair.value_type, F32);
    CHECK(pair.f64_value == (double)1e-5f);
    pair = find("tokenizer.ggml.add_bos_token");
    CHECK_INT(pair.value_type, BOOL);
    CHECK_INT(pair.u64_value, 1);

    pair = find("tokenizer.ggml.tokens");
    CHECK_INT(pair.value_type, ARRAY);
    CHECK_INT(pair.array_type, STRING);
    CHECK_INT(pair.count, 338);
    CHECK_INT(pair.index, 15);
    CHECK(pair.data == NULL && pair.data_size == 0);
    pair = find("tokenizer.ggml.scores");
    CHECK_INT(pair.array_type, F32);
    CHECK_INT(pair.count, 338);
    CHECK_INT(pair.data_size, 338 * 4);
    float score;
    memcpy(&score, (const char *)pair.data + 337 * 4, 4);
    CHECK(score == -79.0f);
    pair = find("tokenizer.ggml.token_type");
    CHECK_INT(pair.array_type, I32);
    int32_t types[4];
    memcpy(types, pair.data, sizeof types);
    CHECK(types[0] == 2 && types[1] == 3 && types[2] == 3 && types[3] == 6);

    const uint64_t none[] = {24, UINT32_MAX, (uint64_t)UINT32_MAX + 1, UINT64_MAX};
    securereg_gguf_pair before = pair;
    for (int i = 0; i < 4; i++)
        CHECK_FAILS(securereg_gguf_pair_at(gguf, none[i], &pair, &error), SECUREREG_NOT_FOUND, &error, "24 pairs");
    CHECK_FAILS(securereg_gguf_find(gguf, "llama.vocab", &pair, &error), SECUREREG_NOT_FOUND, &error, "llama.vocab");
    CHECK_FAILS(securereg_gguf_find(gguf, "", &pair, &error), SECUREREG_NOT_FOUND, &error, NULL);
    CHECK(memcmp(&before, &pair, sizeof pair) == 0);
}

static void the_strings_of_tiny_llama(void) {
    static const struct {
        uint64_t index;
        const char *text;
    } tokens[] = {{0, "<unk>"}, {1, "<s>"}, {2, "</s>"}, {3, "<0x00>"}, {4, "<0x01>"}, {337, "nd"}};
    const char *data;
    size_t len;
    for (int i = 0; i < 6; i++) {
        CHECK_OK(securereg_gguf_string(gguf, 15, tokens[i].index, &data, &len, &error), &error);
        CHECK(len == strlen(tokens[i].text) && memcmp(data, tokens[i].text, len) == 0);
    }
    const char *untouched = data = "untouched";
    len = 7;
    CHECK_FAILS(securereg_gguf_string(gguf, 15, 338, &data, &len, &error), SECUREREG_NOT_FOUND, &error, "338 strings");
    CHECK_FAILS(securereg_gguf_string(gguf, 15, UINT64_MAX, &data, &len, &error), SECUREREG_NOT_FOUND, &error, NULL);
    CHECK_FAILS(securereg_gguf_string(gguf, 24, 0, &data, &len, &error), SECUREREG_NOT_FOUND, &error, "24 pairs");
    CHECK_FAILS(securereg_gguf_string(gguf, UINT64_MAX, 0, &data, &len, &error), SECUREREG_NOT_FOUND, &error, NULL);
    CHECK_FAILS(securereg_gguf_string(gguf, 0, 0, &data, &len, &error), SECUREREG_INVALID_INPUT, &error, "architecture");
    CHECK_FAILS(securereg_gguf_string(gguf, 16, 0, &data, &len, &error), SECUREREG_INVALID_INPUT, &error, "scores");
    CHECK(data == untouched && len == 7);
}

static void the_tensors_of_tiny_llama(void) {
    static const struct {
        uint64_t index;
        const char *name, *type;
        uint32_t type_id, dimension_count;
        uint64_t dimensions[4], offset, size;
    } rows[] = {
        {0, "token_embd.weight", "Q8_0", 8, 2, {256, 338, 1, 1}, 0, 91936},
        {1, "blk.0.attn_norm.weight", "F32", 0, 1, {256, 1, 1, 1}, 91936, 1024},
        {9, "blk.0.ffn_down.weight", "Q8_0", 8, 2, {512, 256, 1, 1}, 581408, 139264},
        {20, "output.weight", "Q8_0", 8, 2, {256, 338, 1, 1}, 1350432, 91936},
    };
    securereg_gguf_tensor tensor;
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        memset(&tensor, 0xA5, sizeof tensor);
        tensor.size = sizeof tensor;
        CHECK_OK(securereg_gguf_tensor_at(gguf, rows[i].index, &tensor, &error), &error);
        CHECK_TEXT(tensor.name, rows[i].name);
        CHECK_TEXT(tensor.type_name, rows[i].type);
        CHECK_INT(tensor.type_id, rows[i].type_id);
        CHECK_INT(tensor.dimension_count, rows[i].dimension_count);
        CHECK(memcmp(tensor.dimensions, rows[i].dimensions, sizeof tensor.dimensions) == 0);
        CHECK_INT(tensor.offset, 9408 + rows[i].offset);
        CHECK_INT(tensor.size_bytes, rows[i].size);
    }
    /* The last one ends the file, and its data are what a verified read gives. */
    CHECK_INT(tensor.offset + tensor.size_bytes, TINY_SIZE);
    securereg_gguf_tensor before = tensor;
    CHECK_FAILS(securereg_gguf_tensor_at(gguf, 21, &tensor, &error), SECUREREG_NOT_FOUND, &error, "21 tensors");
    CHECK_FAILS(securereg_gguf_tensor_at(gguf, UINT64_MAX, &tensor, &error), SECUREREG_NOT_FOUND, &error, NULL);
    CHECK(memcmp(&before, &tensor, sizeof tensor) == 0);
}

static void it_outlives_the_handle_of_its_registry_and_the_model(void) {
    securereg_registry second = kit_open("root", 0);
    securereg_gguf of_second = {0}, first = gguf;
    CHECK_OK(securereg_gguf_open(second, "tiny", TINY, &of_second, &error), &error);
    CHECK_OK(securereg_close(second), NULL);
    CHECK_OK(securereg_gguf_free(first), NULL);
    CHECK_OK(securereg_delete(registry, "tiny", &error), &error);
    gguf = of_second;
    CHECK_TEXT(find("general.architecture").data, "llama");
    CHECK_OK(securereg_gguf_free(gguf), NULL);
}

/* --- a file of every type --- */

static char made[4096];
static size_t made_len;
static void put(const void *bytes, size_t len) {
    memcpy(made + made_len, bytes, len);
    made_len += len;
}
static void put_u32(uint32_t n) { put(&n, 4); }
static void put_u64(uint64_t n) { put(&n, 8); }
static void put_text(const char *text, size_t len) {
    put_u64(len);
    put(text, len);
}
static void put_key(const char *key, uint32_t type) {
    put_text(key, strlen(key));
    put_u32(type);
}

static void every_type_of_value_comes_through(void) {
    made_len = 0;
    put("GGUF", 4);
    put_u32(3);
    put_u64(0);
    put_u64(16);
    put_key("u8", U8), put("\xff", 1);
    put_key("i8", I8), put("\x80", 1);
    put_key("u16", U16), put("\xff\xff", 2);
    put_key("i16", I16), put("\x00\x80", 2);
    put_key("u32", U32), put_u32(UINT32_MAX);
    put_key("i32", I32), put_u32((uint32_t)INT32_MIN);
    float f = -1.5f;
    put_key("f32", F32), put(&f, 4);
    put_key("no", BOOL), put("\0", 1);
    put_key("bytes", STRING), put_text("a\0\xff" "b", 4);
    put_key("empty", STRING), put_text("", 0);
    put_key("u64", U64), put_u64(UINT64_MAX);
    put_key("i64", I64), put_u64((uint64_t)INT64_MIN);
    double d = 1e300;
    put_key("f64", F64), put(&d, 8);
    put_key("bools", ARRAY), put_u32(BOOL), put_u64(3), put("\1\0\1", 3);
    put_key("none", ARRAY), put_u32(STRING), put_u64(0);
    put_key("strings", ARRAY), put_u32(STRING), put_u64(3), put_text("x", 1), put_text("", 0), put_text("\xff\0", 2);
    while (made_len % 32) put("", 1);
    kit_write(kit_path("%s/types.gguf", kit_scratch()), made, made_len);
    kit_promote(registry, kit_path("%s/types.gguf", kit_scratch()), "types");
    CHECK_OK(securereg_gguf_open(registry, "types", NULL, &gguf, &error), &error);

    CHECK(find("u8").value_type == U8 && find("u8").u64_value == 255);
    CHECK(find("i8").value_type == I8 && find("i8").i64_value == -128);
    CHECK(find("u16").value_type == U16 && find("u16").u64_value == 65535);
    CHECK(find("i16").value_type == I16 && find("i16").i64_value == -32768);
    CHECK(find("u32").value_type == U32 && find("u32").u64_value == UINT32_MAX);
    CHECK(find("i32").value_type == I32 && find("i32").i64_value == INT32_MIN);
    CHECK(find("f32").value_type == F32 && find("f32").f64_value == -1.5);
    CHECK(find("no").value_type == BOOL && find("no").u64_value == 0);
    CHECK(find("u64").value_type == U64 && find("u64").u64_value == UINT64_MAX);
    CHECK(find("i64").value_type == I64 && find("i64").i64_value == INT64_MIN);
    CHECK(find("f64").value_type == F64 && find("f64").f64_value == 1e300);
    securereg_gguf_pair pair = find("bytes");
    /* With a NUL behind, whatever is inside. */
    CHECK(pair.data_size == 4 && memcmp(pair.data, "a\0\xff" "b", 5) == 0);
    pair = find("empty");
    CHECK(pair.data != NULL && pair.data_size == 0 && *(const char *)pair.data == 0);
    pair = find("bools");
    CHECK(pair.value_type == ARRAY && pair.array_type == BOOL && pair.count == 3 && pair.data_size == 3);
    CHECK(memcmp(pair.data, "\1\0\1", 3) == 0);
    pair = find("none");
    CHECK(pair.array_type == STRING && pair.count == 0);
    const char *data = NULL;
    size_t len = 7;
    CHECK_OK(securereg_gguf_string(gguf, 15, 2, &data, &len, &error), &error);
    CHECK(len == 2 && memcmp(data, "\xff\0", 2) == 0);
    CHECK_OK(securereg_gguf_string(gguf, 15, 1, &data, &len, &error), &error);
    CHECK(len == 0 && data != NULL);
    CHECK_FAILS(securereg_gguf_string(gguf, 14, 0, &data, &len, &error), SECUREREG_NOT_FOUND, &error, "0 strings");
    CHECK_OK(securereg_gguf_free(gguf), NULL);
}

static void what_is_no_sound_gguf_is_refused(void) {
    securereg_gguf out = {7};
    /* A model of another format: what only begins like a GGUF is not promoted. */
    kit_promote(registry, kit_data("hostile/s00_ok.safetensors"), "other");
    CHECK_INT(securereg_gguf_open(registry, "other", NULL, &out, &error), SECUREREG_REFUSED);
    CHECK_TEXT(securereg_error_model(error), "other");
    CHECK_OK(securereg_error_free(error), NULL);
    error.id = 0;
    CHECK_FAILS(securereg_gguf_open(registry, "none", NULL, &out, &error), SECUREREG_NOT_FOUND, &error, "none");
    CHECK_FAILS(securereg_gguf_open(registry, "other", "none", &out, &error), SECUREREG_NOT_FOUND, &error, "none");
    CHECK_INT(out.id, 7);
}

static void damage_in_the_header_is_corrupt(void) {
    securereg_gguf out = {7};
    kit_promote(registry, kit_data(TINY), "tiny");
    kit_flip(kit_root("root"), TINY_SHA256, 30);
    CHECK_FAILS(securereg_gguf_open(registry, "tiny", NULL, &out, &error), SECUREREG_CORRUPT, &error, NULL);
    CHECK_INT(out.id, 7);
    CHECK_INT(kit_status(registry, "tiny"), SECUREREG_MODEL_QUARANTINED);
}

static void end(void) { CHECK_OK(securereg_close(registry), NULL); }

static const struct test tests[] = {
    {"the_model_opens", begin},
    {"the_numbers_of_tiny_llama", the_numbers_of_tiny_llama},
    {"the_metadata_of_tiny_llama", the_metadata_of_tiny_llama},
    {"the_strings_of_tiny_llama", the_strings_of_tiny_llama},
    {"the_tensors_of_tiny_llama", the_tensors_of_tiny_llama},
    {"it_outlives_the_handle_of_its_registry_and_the_model", it_outlives_the_handle_of_its_registry_and_the_model},
    {"every_type_of_value_comes_through", every_type_of_value_comes_through},
    {"what_is_no_sound_gguf_is_refused", what_is_no_sound_gguf_is_refused},
    {"damage_in_the_header_is_corrupt", damage_in_the_header_is_corrupt},
    {"the_registry_closes", end},
};
TESTS(tests)

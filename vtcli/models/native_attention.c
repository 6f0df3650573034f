/* softmax(scale * q k^T + bias + mask) v in bf16, for processors with AVX-512 BF16.
 *
 * Scores never leave the caches next to a core: for 32 queries at a time (ROWS), the scores of 128
 * keys (KEYS) are computed, exponentiated and multiplied with the values. Products are computed by
 * AMX, the matrix unit of Intel's processors, or by the vector unit, from the same data layout.
 * The matrix unit works at the same time as the vector unit: between the rows of a chunk's softmax
 * stand products of the chunk before (with its values) and of the one after (with its keys).
 *
 * Sums and exponentials are fp32, weights are rounded to bf16 before they are multiplied, as in
 * FlashAttention (Dao et al., arXiv 2205.14135). Unlike there, the shift of the exponents is known
 * before the first weight, so that sums need no rescaling: it is 0 if scale |q| |k| + |bias| is at
 * most MAX_EXPONENT, else the maximum of a row, for which scores are computed twice.
 *
 * Threads are those of PyTorch's OpenMP: the library is not linked with one of its own, it finds
 * the function in the process. Compiled by tools/build_hook.py; called by native_attention.py.
 */
#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROWS 32 /* two tiles */
#define KEYS 128
#define TILE 16        /* rows of a tile, and fp32 values in a row */
#define PAIRS 32       /* bf16 values in a row of a tile */
#define STEP_ROWS 4    /* rows of softmax between two products */
#define LOG2E 1.44269504f
#define MAX_EXPONENT 64.0f /* of 2: such weights, times values below 2^50, have finite sums */

#define INLINE static inline __attribute__((always_inline))
/* AMX instructions run only if the caller asks for them. */
#define SIMD __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))

/* GCC's tile instructions do not say what they read: all must be stored before. */
#define BARRIER(MEMORY) __asm__ volatile("" : : "r"(MEMORY) : "memory")

typedef uint16_t bf16;

/* Strides count values. Rows of q, k, v are contiguous; y is [windows, queries, heads, width]. */
typedef struct {
    const bf16 *q, *k, *v;
    bf16 *y;
    const bf16 *bias;    /* [heads, queries, keys], or NULL */
    const bf16 *mask;    /* [kinds, queries, keys], or NULL */
    const int64_t *kind; /* of each window */
    int64_t windows, heads, queries, keys, width;
    int64_t q_window, q_head, q_row;
    int64_t k_window, k_head, k_row;
    int64_t v_window, v_head, v_row;
    int64_t bias_head, bias_row;
    int64_t mask_kind, mask_row;
    int64_t threads, amx; /* amx: whether products are computed by the matrix unit */
    float scale;
    int64_t parts, next; /* set by vt_attend */
} Attention;

/* A thread's memory. Keys and values are those of one head of a window, in the order of tiles. */
typedef struct {
    bf16 *keys, *values, *queries;
    float *scores[2], *sums;
    bf16 *weights[2];
    __m512 shift[ROWS], total[ROWS];
} Scratch;

extern void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags);

/* Numbers ------------------------------------------------------------------------------------- */

INLINE SIMD __m512 widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

/* 2^x with a relative error of 7.5e-5, a fiftieth of a bf16 step; 2^-126 for smaller x. */
INLINE SIMD __m512 exp2_of(__m512 x) {
    const __m512 to_integer = _mm512_set1_ps(12582912.0f); /* 1.5 * 2^23: the sum has no fraction */
    x = _mm512_max_ps(_mm512_set1_ps(-126.0f), x); /* the second operand if one is NaN */
    __m512 rounded = _mm512_add_ps(x, to_integer);
    __m512 f = _mm512_sub_ps(x, _mm512_sub_ps(rounded, to_integer));
    __m512 p = _mm512_set1_ps(0.0551716649f); /* minimax polynomial of 2^f, |f| <= 0.5 */
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.242611122f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693260986f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.999928074f));
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(rounded), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent));
}

/* Lanes that hold the first `left` values. */
INLINE __mmask16 lanes(int64_t left) {
    return left >= TILE ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

/* Scores as exponents of 2, with bias and mask. */
INLINE SIMD __m512 exponents(const float *scores, __m512 scale, const bf16 *bias, const bf16 *mask,
                            __mmask16 on) {
    const __m512 log2e = _mm512_set1_ps(LOG2E);
    __m512 x = _mm512_mul_ps(_mm512_load_ps(scores), scale);
    if (bias) x = _mm512_fmadd_ps(widen(_mm256_maskz_loadu_epi16(on, bias)), log2e, x);
    if (mask) x = _mm512_fmadd_ps(widen(_mm256_maskz_loadu_epi16(on, mask)), log2e, x);
    return x;
}

/* The largest squared length of rows. */
SIMD static float max_square(const bf16 *x, int64_t row, int64_t rows, int64_t width) {
    float best = 0.0f;
    for (int64_t r = 0; r < rows; r++) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t d = 0; d < width; d += PAIRS) {
            __m512bh values = (__m512bh)_mm512_loadu_si512(x + r * row + d);
            sum = _mm512_dpbf16_ps(sum, values, values);
        }
        float square = _mm512_reduce_add_ps(sum);
        best = square <= best || best != best ? best : square; /* NaN stays */
    }
    return best;
}

/* The largest magnitude of finite values. */
SIMD static float max_finite(const bf16 *x, int64_t row, int64_t rows, int64_t columns) {
    __m256i best = _mm256_setzero_si256();
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c += TILE) {
            __m256i values = _mm256_maskz_loadu_epi16(lanes(columns - c), x + r * row + c);
            values = _mm256_and_si256(values, _mm256_set1_epi16(0x7fff));
            __mmask16 finite = _mm256_cmplt_epu16_mask(values, _mm256_set1_epi16(0x7f80));
            best = _mm256_mask_max_epu16(best, finite, best, values);
        }
    return _mm512_reduce_max_ps(widen(best));
}

/* Order of tiles ------------------------------------------------------------------------------ */

/* 16 rows of 32 values -> [16 pairs of values][16 rows][2]; rows that do not exist are 0. */
SIMD static void transpose_pairs(const bf16 *x, int64_t row, int64_t rows, bf16 *out) {
    __m512i a[TILE], b[TILE];
    for (int i = 0; i < TILE; i++)
        a[i] = i < rows ? _mm512_loadu_si512(x + i * row) : _mm512_setzero_si512();
    for (int i = 0; i < TILE; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < TILE; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < TILE; j += 8) {
            b[i + j] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0x88);
            b[i + j + 4] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        _mm512_store_si512(out + PAIRS * i, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_store_si512(out + PAIRS * (i + 8), _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
    }
}

/* 32 rows of 16 values -> [16 pairs of rows][16 values][2]; rows that do not exist are 0. */
SIMD static void pair_rows(const bf16 *x, int64_t row, int64_t rows, bf16 *out) {
    for (int i = 0; i < PAIRS; i += 2) {
        __m256i first = _mm256_maskz_loadu_epi16(i < rows ? 0xffff : 0, x + i * row);
        __m256i second = _mm256_maskz_loadu_epi16(i + 1 < rows ? 0xffff : 0, x + (i + 1) * row);
        __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16);
        _mm512_store_si512(out + TILE * i, _mm512_or_si512(_mm512_cvtepu16_epi32(first), high));
    }
}

/* Products ------------------------------------------------------------------------------------ */

SIMD static void configure_tiles(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes_per_row[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.bytes_per_row[i] = 64, config.rows[i] = TILE;
    BARRIER(&config);
    _tile_loadconfig(&config);
}

/* Scores of 32 queries and 16 keys, by the matrix unit. */
INLINE SIMD void multiply_keys_amx(const bf16 *queries, const bf16 *keys, float *scores,
                                   int64_t width) {
    BARRIER(queries);
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t d = 0; d < width; d += PAIRS) {
        _tile_loadd(4, keys + d * TILE, 64);
        _tile_loadd(5, queries + d, 2 * width);
        _tile_dpbf16ps(0, 5, 4);
        _tile_loadd(6, queries + TILE * width + d, 2 * width);
        _tile_dpbf16ps(1, 6, 4);
    }
    _tile_stored(0, scores, 4 * KEYS);
    _tile_stored(1, scores + TILE * KEYS, 4 * KEYS);
}

/* Add the product of the weights of 32 queries with 16 channels of the values, by the matrix unit. */
INLINE SIMD void multiply_values_amx(const bf16 *weights, const bf16 *values, float *sums,
                                     int64_t width, int64_t keys, int first) {
    BARRIER(weights);
    if (first) {
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(2, sums, 4 * width);
        _tile_loadd(3, sums + TILE * width, 4 * width);
    }
    for (int64_t m = 0; m < keys; m += PAIRS) {
        _tile_loadd(7, values + m * width, 64);
        _tile_loadd(5, weights + m, 2 * KEYS);
        _tile_dpbf16ps(2, 5, 7);
        _tile_loadd(6, weights + TILE * KEYS + m, 2 * KEYS);
        _tile_dpbf16ps(3, 6, 7);
    }
    _tile_stored(2, sums, 4 * width);
    _tile_stored(3, sums + TILE * width, 4 * width);
}

/* 16 rows of a times 16 columns of b, by the vector unit. Strides: a_row and c_row count values,
 * b_tile those between tiles of 32 rows of b. */
INLINE SIMD void multiply_tiles(const bf16 *a, int64_t a_row, const bf16 *b, int64_t b_tile,
                                int64_t length, float *c, int64_t c_row, int first) {
    __m512 sum[TILE];
    for (int r = 0; r < TILE; r++)
        sum[r] = first ? _mm512_setzero_ps() : _mm512_load_ps(c + r * c_row);
    for (int64_t i = 0; i < length; i += PAIRS, b += b_tile)
        for (int j = 0; j < PAIRS; j += 2) {
            __m512bh column = (__m512bh)_mm512_load_si512(b + j * TILE);
            for (int r = 0; r < TILE; r++) {
                int32_t pair;
                memcpy(&pair, a + r * a_row + i + j, sizeof pair);
                sum[r] = _mm512_dpbf16_ps(sum[r], (__m512bh)_mm512_set1_epi32(pair), column);
            }
        }
    for (int r = 0; r < TILE; r++) _mm512_store_ps(c + r * c_row, sum[r]);
}

INLINE SIMD void multiply_keys(const bf16 *queries, const bf16 *keys, float *scores, int64_t width,
                               int64_t amx) {
    if (amx) {
        multiply_keys_amx(queries, keys, scores, width);
        return;
    }
    for (int64_t r = 0; r < ROWS; r += TILE)
        multiply_tiles(queries + r * width, width, keys, TILE * PAIRS, width, scores + r * KEYS,
                       KEYS, 1);
}

INLINE SIMD void multiply_values(const bf16 *weights, const bf16 *values, float *sums,
                                 int64_t width, int64_t keys, int first, int64_t amx) {
    if (amx) {
        multiply_values_amx(weights, values, sums, width, keys, first);
        return;
    }
    for (int64_t r = 0; r < ROWS; r += TILE)
        multiply_tiles(weights + r * KEYS, KEYS, values, PAIRS * width, keys, sums + r * width,
                       width, first);
}

/* Products that are computed during a chunk's softmax: first those of the chunk before. */
typedef struct {
    Scratch *s;
    int64_t chunk, width, padded_keys, amx; /* padded_keys: of all chunks */
    int64_t value_steps, steps, done;
} Products;

INLINE int64_t chunk_keys(int64_t padded_keys, int64_t chunk) {
    int64_t left = padded_keys - chunk * KEYS;
    return left < 0 ? 0 : left < KEYS ? left : KEYS;
}

INLINE Products products_around(Scratch *s, const Attention *a, int64_t chunk) {
    int64_t padded_keys = (a->keys + PAIRS - 1) / PAIRS * PAIRS;
    int64_t value_steps = chunk > 0 ? a->width / TILE : 0;
    int64_t key_steps = chunk_keys(padded_keys, chunk + 1) / TILE;
    return (Products){s, chunk, a->width, padded_keys, a->amx, value_steps, value_steps + key_steps, 0};
}

INLINE SIMD void next_product(Products *p) {
    Scratch *s = p->s;
    int64_t step = p->done++, width = p->width;
    if (step < p->value_steps) {
        int64_t chunk = p->chunk - 1;
        const bf16 *values = s->values + chunk * KEYS * width + step * TILE * PAIRS;
        multiply_values(s->weights[chunk & 1], values, s->sums + step * TILE, width,
                        chunk_keys(p->padded_keys, chunk), chunk == 0, p->amx);
    } else if (step < p->steps) {
        int64_t chunk = p->chunk + 1, m = (step - p->value_steps) * TILE;
        const bf16 *keys = s->keys + (chunk * KEYS + m) * width;
        multiply_keys(s->queries, keys, s->scores[chunk & 1] + m, width, p->amx);
    }
}

/* Softmax ------------------------------------------------------------------------------------- */

/* Weights of a query for the keys of a chunk, not yet divided by their total. */
INLINE SIMD void weigh(const float *scores, __m512 scale, __m512 shift, const bf16 *bias,
                      const bf16 *mask, int64_t keys, bf16 *weights, __m512 *total) {
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (int64_t m = 0; m < keys; m += PAIRS) {
        __mmask16 on[2] = {lanes(keys - m), lanes(keys - m - TILE)};
        __m512 x[2];
        for (int i = 0; i < 2; i++) {
            int64_t at = m + i * TILE;
            x[i] = exponents(scores + at, scale, bias ? bias + at : 0, mask ? mask + at : 0, on[i]);
            x[i] = _mm512_maskz_mov_ps(on[i], exp2_of(_mm512_sub_ps(x[i], shift)));
        }
        even = _mm512_add_ps(even, x[0]);
        odd = _mm512_add_ps(odd, x[1]);
        _mm512_store_si512(weights + m, (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]));
    }
    *total = _mm512_add_ps(*total, _mm512_add_ps(even, odd));
}

/* The largest exponent of a query for the keys of a chunk. */
INLINE SIMD __m512 largest(const float *scores, __m512 scale, const bf16 *bias, const bf16 *mask,
                          int64_t keys, __m512 best) {
    for (int64_t m = 0; m < keys; m += TILE) {
        __mmask16 on = lanes(keys - m);
        __m512 x = exponents(scores + m, scale, bias ? bias + m : 0, mask ? mask + m : 0, on);
        best = _mm512_mask_max_ps(best, on, best, x);
    }
    return best;
}

/* Calls CODE for each row with its bias and mask, NULL for all where there is none. */
#define FOR_ROWS(CODE)                                                                             \
    if (bias && mask)                                                                              \
        for (int64_t r = 0; r < rows; r++) CODE(bias + r * a->bias_row, mask + r * a->mask_row)    \
    else if (bias)                                                                                 \
        for (int64_t r = 0; r < rows; r++) CODE(bias + r * a->bias_row, NULL)                      \
    else if (mask)                                                                                 \
        for (int64_t r = 0; r < rows; r++) CODE(NULL, mask + r * a->mask_row)                      \
    else                                                                                           \
        for (int64_t r = 0; r < rows; r++) CODE(NULL, NULL)

/* Set the shift of each row to its largest exponent. */
SIMD static void find_shifts(const Attention *a, Scratch *s, int64_t rows, const bf16 *bias,
                            const bf16 *mask) {
    __m512 scale = _mm512_set1_ps(a->scale * LOG2E);
    for (int64_t r = 0; r < rows; r++) s->shift[r] = _mm512_set1_ps(-3e38f);
    for (int64_t start = 0; start < a->keys; start += KEYS) {
        int64_t keys = chunk_keys(a->keys, start / KEYS);
        for (int64_t m = 0; m < keys; m += TILE) {
            const bf16 *packed = s->keys + (start + m) * a->width;
            multiply_keys(s->queries, packed, s->scores[0] + m, a->width, a->amx);
        }
#define LARGEST(BIAS, MASK)                                                                        \
    s->shift[r] = largest(s->scores[0] + r * KEYS, scale, BIAS, MASK, keys, s->shift[r]);
        FOR_ROWS(LARGEST)
        if (bias) bias += KEYS;
        if (mask) mask += KEYS;
    }
    for (int64_t r = 0; r < rows; r++)
        s->shift[r] = _mm512_set1_ps(_mm512_reduce_max_ps(s->shift[r]));
}

/* Weighted sums of the values for up to 32 queries. */
SIMD static void attend_rows(const Attention *a, Scratch *s, int64_t rows, const bf16 *bias,
                            const bf16 *mask) {
    int64_t chunks = (a->keys + KEYS - 1) / KEYS;
    __m512 scale = _mm512_set1_ps(a->scale * LOG2E);
    for (int64_t r = 0; r < rows; r++) s->total[r] = _mm512_setzero_ps();
    /* Around the chunk before the first and the one after the last there is one product. */
    Products first = products_around(s, a, -1);
    while (first.done < first.steps) next_product(&first);
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const float *scores = s->scores[chunk & 1];
        bf16 *weights = s->weights[chunk & 1];
        int64_t keys = chunk_keys(a->keys, chunk);
        Products products = products_around(s, a, chunk);
#define WEIGH(BIAS, MASK)                                                                          \
    {                                                                                              \
        weigh(scores + r * KEYS, scale, s->shift[r], BIAS, MASK, keys, weights + r * KEYS,         \
              s->total + r);                                                                       \
        if (r % STEP_ROWS == 0) next_product(&products);                                           \
    }
        FOR_ROWS(WEIGH)
        while (products.done < products.steps) next_product(&products);
        if (bias) bias += KEYS;
        if (mask) mask += KEYS;
    }
    Products last = products_around(s, a, chunks);
    while (last.done < last.steps) next_product(&last);
}

SIMD static void write_rows(const Attention *a, const Scratch *s, int64_t rows, bf16 *y) {
    for (int64_t r = 0; r < rows; r++) {
        __m512 inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(s->total[r]));
        for (int64_t d = 0; d < a->width; d += TILE) {
            __m512 sum = _mm512_load_ps(s->sums + r * a->width + d);
            __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(sum, inverse));
            _mm256_storeu_si256((__m256i *)(y + r * a->heads * a->width + d), rounded);
        }
    }
}

/* Work of a thread ---------------------------------------------------------------------------- */

static int allocate(Scratch *s, const Attention *a) {
    size_t keys = (a->keys + PAIRS - 1) / PAIRS * PAIRS, width = a->width;
    size_t bytes = 4 * keys * width + 6 * ROWS * width + 2 * 6 * ROWS * KEYS;
    char *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) return 0;
    s->scores[0] = (float *)memory;
    s->scores[1] = s->scores[0] + ROWS * KEYS;
    s->sums = s->scores[1] + ROWS * KEYS;
    s->weights[0] = (bf16 *)(s->sums + ROWS * width);
    s->weights[1] = s->weights[0] + ROWS * KEYS;
    s->queries = s->weights[1] + ROWS * KEYS;
    s->keys = s->queries + ROWS * width;
    s->values = s->keys + keys * width;
    return 1;
}

SIMD static void pack(const Attention *a, Scratch *s, const bf16 *k, const bf16 *v) {
    for (int64_t m = 0; m < (a->keys + PAIRS - 1) / PAIRS * PAIRS; m += TILE)
        for (int64_t d = 0; d < a->width; d += PAIRS)
            transpose_pairs(k + m * a->k_row + d, a->k_row, a->keys - m,
                            s->keys + m * a->width + d * TILE);
    for (int64_t m = 0; m < a->keys; m += PAIRS)
        for (int64_t d = 0; d < a->width; d += TILE)
            pair_rows(v + m * a->v_row + d, a->v_row, a->keys - m,
                      s->values + m * a->width + d * PAIRS);
}

SIMD static void work(void *data) {
    Attention *a = data;
    Scratch s;
    if (!allocate(&s, a)) return; /* the other threads do its part */
    if (a->amx) configure_tiles();
    int64_t blocks = (a->queries + ROWS - 1) / ROWS, packed = -1, biased = -1;
    float max_bias = 0.0f, max_key = 0.0f;
    for (;;) {
        int64_t item = __atomic_fetch_add(&a->next, 1, __ATOMIC_RELAXED);
        int64_t part = item % a->parts, pair = item / a->parts;
        int64_t window = pair % a->windows, head = pair / a->windows;
        if (head >= a->heads) break;
        const bf16 *bias = a->bias ? a->bias + head * a->bias_head : NULL;
        const bf16 *mask = a->mask ? a->mask + a->kind[window] * a->mask_kind : NULL;
        if (bias && biased != head) {
            max_bias = max_finite(bias, a->bias_row, a->queries, a->keys);
            biased = head;
        }
        if (packed != pair) {
            const bf16 *k = a->k + window * a->k_window + head * a->k_head;
            pack(a, &s, k, a->v + window * a->v_window + head * a->v_head);
            max_key = max_square(k, a->k_row, a->keys, a->width);
            packed = pair;
        }
        for (int64_t b = blocks * part / a->parts; b < blocks * (part + 1) / a->parts; b++) {
            int64_t row = b * ROWS, rows = a->queries - row < ROWS ? a->queries - row : ROWS;
            const bf16 *q = a->q + window * a->q_window + head * a->q_head + row * a->q_row;
            for (int64_t r = 0; r < rows; r++)
                memcpy(s.queries + r * a->width, q + r * a->q_row, 2 * a->width);
            memset(s.queries + rows * a->width, 0, 2 * (ROWS - rows) * a->width);
            const bf16 *row_bias = bias ? bias + row * a->bias_row : NULL;
            const bf16 *row_mask = mask ? mask + row * a->mask_row : NULL;
            float max_query = max_square(s.queries, a->width, rows, a->width);
            float bound = a->scale * __builtin_sqrtf(max_query * max_key) + max_bias;
            if (!mask && bound * LOG2E <= MAX_EXPONENT)
                for (int64_t r = 0; r < rows; r++) s.shift[r] = _mm512_setzero_ps();
            else
                find_shifts(a, &s, rows, row_bias, row_mask);
            attend_rows(a, &s, rows, row_bias, row_mask);
            write_rows(a, &s, rows, a->y + ((window * a->queries + row) * a->heads + head) * a->width);
        }
    }
    if (a->amx) _tile_release();
    free(s.scores[0]);
}

/* Called from Python -------------------------------------------------------------------------- */

/* The checksum of this file, so that a library of another version is not used. */
uint32_t vt_source(void) { return SOURCE_CRC32; }

/* Ask Linux for the matrix unit; 0 if the processor has none for bf16, or it is not granted. */
int vt_request_amx(void) {
    const long request_permission = 0x1023, tile_data = 18;
    const unsigned amx_bf16 = 1u << 22;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & amx_bf16)) return 0;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

/* Compute y; 0 if no thread had enough memory. */
int vt_attend(Attention *a) {
    int64_t items = a->windows * a->heads, blocks = (a->queries + ROWS - 1) / ROWS;
    if (items * blocks == 0) return 1;
    int64_t wanted = 4 * a->threads; /* so that no thread waits long for the last one */
    a->parts = items < wanted ? (wanted + items - 1) / items : 1;
    a->parts = a->parts < blocks ? a->parts : blocks;
    a->next = 0;
    GOMP_parallel(work, a, (unsigned)a->threads, 0);
    return a->next >= items * a->parts;
}

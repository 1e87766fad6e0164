/* tile_body.h: the functions of tile.h for one vector width, included by tile.c once for each.
 *
 * Before: T(name) adds the instruction set to a name, TARGET allows its use, LANES floats in a
 * vector, BLOCK_ROWS rows of C in registers (times two vectors), VFMA(a, b, c) = a b + c,
 * VMAX(a, b), which is b if a is NaN. All are undefined at the end. */

#define INLINE     static inline __attribute__((always_inline)) TARGET
#define BLOCK_COLS (2 * LANES)

typedef float T(vf) __attribute__((vector_size(LANES * 4)));
typedef int32_t T(vi) __attribute__((vector_size(LANES * 4)));
typedef float T(vf_any) __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef struct T(numbers) {
    int32_t lane[LANES];
} T(numbers);

INLINE T(vf) T(load)(const float *p) {
    return *(const T(vf_any) *)p;
}
INLINE void T(store)(float *p, T(vf) x) {
    *(T(vf_any) *)p = x;
}
INLINE T(vf) T(all)(float x) {
    return x - (T(vf)){0};
}
/* a where the mask is set, else b. */
INLINE T(vf) T(choose)(T(vi) mask, T(vf) a, T(vf) b) {
    return (T(vf))(((T(vi))a & mask) | ((T(vi))b & ~mask));
}

/* ---- products ---- */

/* One block: C's `rows` x `vectors` from (row, col) over depth [from, to). rows, vectors and
 * unit (A's rows are adjacent) are constants where this is inlined, so that acc lives in
 * registers. */
INLINE void T(block)(const tile_product *p, int row, int col, range k, int rows, int vectors,
                     bool unit) {
    T(vf) acc[BLOCK_ROWS][2];
    float *c = p->c + row * p->c_row + col;
    int64_t a_row = unit ? 1 : p->a_row, a_depth = unit ? p->a_depth : 1;
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            acc[r][v] = p->add ? T(load)(c + r * p->c_row + v * LANES) : T(all)(0);
            if (p->rescale) acc[r][v] *= T(load)(p->rescale + col + v * LANES);
        }
    const float *a = p->a + row * a_row + k.first * a_depth;
    const float *b = p->b + k.first * p->b_row + col;
    for (int i = k.first; i < k.last; i++, a += a_depth, b += p->b_row) {
        T(vf) b0 = T(load)(b), b1 = vectors > 1 ? T(load)(b + LANES) : b0;
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            T(vf) x = T(all)(a[r * a_row]);
            acc[r][0] = VFMA(x, b0, acc[r][0]);
            if (vectors > 1) acc[r][1] = VFMA(x, b1, acc[r][1]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) T(store)(c + r * p->c_row + v * LANES, acc[r][v]);
}

/* All rows of `vectors` vectors of columns from `col`. */
INLINE void T(strip)(const tile_product *p, int col, int vectors, bool unit) {
    range rows = {0, p->rows}, depth = {0, p->depth};
    if (p->cut == TILE_CUT_ROWS)
        rows = keys_seen(p->band, col, col + vectors * LANES, p->rows);
    if (p->cut == TILE_CUT_KEYS)
        depth = keys_seen(p->band, col, col + vectors * LANES, p->depth);
    for (int row = rows.first, n; row < rows.last; row += n) {
        int left = rows.last - row;
        n = left >= BLOCK_ROWS ? BLOCK_ROWS
            : left >= 8        ? 8
            : left >= 4        ? 4
            : left >= 2        ? 2
                               : 1;
        if (p->cut == TILE_CUT_QUERIES)
            depth = queries_seeing(p->band, row, row + n, p->depth);
        if (n == BLOCK_ROWS)
            T(block)(p, row, col, depth, BLOCK_ROWS, vectors, unit);
        else if (BLOCK_ROWS > 8 && n == 8)
            T(block)(p, row, col, depth, BLOCK_ROWS > 8 ? 8 : 1, vectors, unit);
        else if (n == 4)
            T(block)(p, row, col, depth, 4, vectors, unit);
        else if (n == 2)
            T(block)(p, row, col, depth, 2, vectors, unit);
        else
            T(block)(p, row, col, depth, 1, vectors, unit);
    }
}

TARGET static void T(product_unit)(const tile_product *p) {
    int col = 0;
    for (; col + BLOCK_COLS <= p->cols; col += BLOCK_COLS) T(strip)(p, col, 2, true);
    for (; col < p->cols; col += LANES) T(strip)(p, col, 1, true);
}
TARGET static void T(product_strided)(const tile_product *p) {
    int col = 0;
    for (; col + BLOCK_COLS <= p->cols; col += BLOCK_COLS) T(strip)(p, col, 2, false);
    for (; col < p->cols; col += LANES) T(strip)(p, col, 1, false);
}
TARGET static void T(product)(const tile_product *p) {
    if (p->a_row == 1)
        T(product_unit)(p);
    else
        T(product_strided)(p);
}

/* ---- elementwise ---- */

/* e^x as vector_exp for x up to 88; below -87.3 it is e^-87.3, which stands for 0. */
INLINE T(vf) T(exponential)(T(vf) x) {
    const T(vf) magic = T(all)(0x1.8p23f);
    x = VMAX(T(all)(-87.3f), x); /* this order keeps NaN */
    T(vf) shifted = VFMA(x, T(all)(0x1.715476p+0f), magic), n = shifted - magic;
    T(vf) r = VFMA(n, T(all)(-0x1.62e4p-1f), x);
    r = VFMA(n, T(all)(-0x1.7f7d1cp-20f), r);
    T(vf) p = VFMA(T(all)(1.9875691500e-4f), r, T(all)(1.3981999507e-3f));
    p = VFMA(p, r, T(all)(8.3334519073e-3f));
    p = VFMA(p, r, T(all)(4.1665795894e-2f));
    p = VFMA(p, r, T(all)(1.6666665459e-1f));
    p = VFMA(p, r, T(all)(5.0000001201e-1f));
    p = VFMA(p, r * r, r) + 1.0f;
    return p *
           (T(vf))(((T(vi))shifted << 23) + 0x3f800000); /* n stands in shifted's low bits */
}

/* tanh: Cephes' polynomial below 0.625, (1 - e) / (1 + e) with e = e^(-2|x|) above. */
INLINE T(vf) T(tangent)(T(vf) x) {
    T(vi) sign = (T(vi))x & (int32_t)0x80000000;
    T(vf) size = (T(vf))((T(vi))x & 0x7fffffff), z = x * x;
    T(vf) p = VFMA(T(all)(-5.70498872745e-3f), z, T(all)(2.06390887954e-2f));
    p = VFMA(p, z, T(all)(-5.37397155531e-2f));
    p = VFMA(p, z, T(all)(1.33314422036e-1f));
    p = VFMA(p, z, T(all)(-3.33332819422e-1f));
    p = VFMA(p * z, x, x);
    T(vf) e = T(exponential)(size * -2.0f), t = (1.0f - e) / (1.0f + e);
    return T(choose)(size < 0.625f, p, (T(vf))((T(vi))t | sign));
}

/* Which of the columns from `col` see key `k`. */
INLINE T(vi) T(seen)(tile_band band, int col, int k) {
    static const T(numbers) count = {{0, 1, 2, 3,
#if LANES > 4
                                      4, 5, 6, 7,
#endif
#if LANES > 8
                                      8, 9, 10, 11, 12, 13, 14, 15
#endif
    }};
    T(vi) q;
    memcpy(&q, &count, sizeof q);
    q += col + band.delta;
    T(vi) mask = q >= k;
    return band.window > 0 ? mask & (q - band.window < k) : mask;
}

/* Rows of a column block out of everyone's sight: p = 0. */
INLINE void T(clear)(float *s, range seen, int keys) {
    for (int k = 0; k < min_int(seen.first, keys); k++) T(store)(s + k * TILE_ROW, T(all)(0));
    for (int k = max_int(seen.last, 0); k < keys; k++) T(store)(s + k * TILE_ROW, T(all)(0));
}

INLINE void T(softmax_columns)(const tile_scores *t, int col) {
    range seen = keys_seen(t->band, col, col + LANES, t->keys);
    range all = keys_seen_by_all(t->band, col, col + LANES, t->keys);
    float *s = t->s + col;
    T(vf) old = T(load)(t->max + col), max = old, sum = T(all)(0);
    for (int k = seen.first; k < seen.last; k++) {
        T(vf) x = T(load)(s + k * TILE_ROW);
        if (t->softcap > 0) x = T(tangent)(x / t->softcap) * t->softcap;
        if (k < all.first || k >= all.last)
            x = T(choose)(T(seen)(t->band, col, k), x, T(all)(TILE_LOWEST));
        max = VMAX(x, max);
        T(store)(s + k * TILE_ROW, x);
    }
    for (int k = seen.first; k < seen.last; k++) {
        T(vf) p = T(exponential)(T(load)(s + k * TILE_ROW) - max);
        if (k < all.first || k >= all.last)
            p = T(choose)(T(seen)(t->band, col, k), p, T(all)(0));
        sum += p;
        T(store)(s + k * TILE_ROW, p);
    }
    T(clear)(s, seen, t->keys);
    T(vf) rescale = T(exponential)(old - max);
    T(store)(t->rescale + col, rescale);
    T(store)(t->max + col, max);
    T(store)(t->sum + col, VFMA(T(load)(t->sum + col), rescale, sum));
}

TARGET static void T(softmax)(const tile_scores *t) {
    for (int col = 0; col < t->cols; col += LANES) T(softmax_columns)(t, col);
}

INLINE void T(derive_columns)(const tile_scores *t, int col) {
    range seen = keys_seen(t->band, col, col + LANES, t->keys);
    range all = keys_seen_by_all(t->band, col, col + LANES, t->keys);
    T(vf) lse = T(load)(t->lse + col), delta = T(load)(t->delta + col);
    for (int k = seen.first; k < seen.last; k++) {
        float *s = t->s + k * TILE_ROW + col, *dp = t->dp + k * TILE_ROW + col;
        T(vf) x = T(load)(s), ds = T(load)(dp) - delta;
        if (t->softcap > 0) {
            T(vf) tangent = T(tangent)(x / t->softcap);
            x = tangent * t->softcap;
            ds *= 1.0f - tangent * tangent;
        }
        T(vf) p = T(exponential)(x - lse);
        ds *= p;
        if (k < all.first || k >= all.last) {
            T(vi) mask = T(seen)(t->band, col, k);
            p = T(choose)(mask, p, T(all)(0));
            ds = T(choose)(mask, ds, T(all)(0));
        }
        T(store)(s, p);
        T(store)(dp, ds);
    }
    T(clear)(t->s + col, seen, t->keys);
    T(clear)(t->dp + col, seen, t->keys);
}

TARGET static void T(derive)(const tile_scores *t) {
    for (int col = 0; col < t->cols; col += LANES) T(derive_columns)(t, col);
}

static const tile_functions T(functions) = {T(product), T(softmax), T(derive)};

#undef INLINE
#undef BLOCK_COLS
#undef T
#undef TARGET
#undef LANES
#undef BLOCK_ROWS
#undef VFMA
#undef VMAX

/* adamw.h: AdamW on flat ranges, with 32-bit states or with 8-bit blockwise ones.
 *
 * Elementwise but for the 8-bit states' block maxima, so a range may be cut anywhere (8-bit:
 * at multiples of 256) and spread over threads or pages without changing a bit. Gradients are
 * finite: the caller skips a step that is not. Which tensors get 8-bit states (4,096 elements
 * or more, as in bitsandbytes), and when a step counts, is the caller's business too. */
#ifndef NIBBLE_QUANT_ADAMW_H
#define NIBBLE_QUANT_ADAMW_H

#include <stddef.h>
#include <stdint.h>

enum {
    ADAMW8_BLOCK = 256,  /* elements per scale of each 8-bit state */
    ADAMW8_LEAST = 4096, /* smaller tensors keep 32-bit states */
};

/* What one step needs of its hyperparameters, computed in double and rounded to fp32. */
typedef struct adamw_scalars {
    float grad_scale; /* g is multiplied by it first, rounded to fp32: clipping; 1 otherwise */
    float decay;      /* 1 - lr*weight_decay */
    float beta1, beta2;
    float rest1, rest2; /* 1 - beta1, 1 - beta2 */
    float root2;        /* sqrt(1 - beta2^t) */
    float step;         /* -lr / (1 - beta1^t) */
    float eps;
    float step8; /* 8-bit: -lr * sqrt(1 - beta2^t) / (1 - beta1^t) */
    float eps8;  /* 8-bit: sqrt(1 - beta2^t) * eps */
} adamw_scalars;

/* Step t counts from 1; grad_scale is 1 until the caller sets it. */
adamw_scalars adamw_scalars_make(double lr, double beta1, double beta2, double eps,
                                 double weight_decay, int64_t t);

/* p, m, v, g are [n] and do not overlap. Bit-equal to torch.optim.AdamW(fused=True) on the
 * CPU:
 *   g *= grad_scale,  p *= decay
 *   m = fma(rest1, g-m, m),  v = fma(rest2*g, g, beta2*v)
 *   p += (step*m) / (sqrt(v)/root2 + eps)
 * and with beta1 <= 0.5, as torch's lerp does, m = fma(rest1-1, g-m, g). */
void adamw32_update(float *p, float *m, float *v, const float *g, int64_t n,
                    const adamw_scalars *scalars);

/* The same with states in 8 bits: codes1 [n] in the signed dynamic map times absmax1
 * [ceil(n/256)], codes2 [n] in the unsigned map times absmax2. All zero is the initial state.
 * The layout and order of bitsandbytes' CUDA kernel (kOptimizerStatic8bit2StateBlockwise):
 *   s1 = map1[c1]*a1,  s2 = map2[c2]*a2
 *   s2 = s2*beta2 + ((1-beta2)*g)*g,  s1 = s1*beta1 + (1-beta1)*g
 *   p += step8 * (s1 / (sqrt(s2) + eps8)),  then p *= decay: decay comes last here
 *   a = largest |s| of the block; c = nearest code of s/a; if s1 < 0 does not agree with the
 *   sign of map1[c1], c1 moves to the neighbour on s1's side (zero counts as positive)
 * with 1-beta taken in fp32 and every operation rounded on its own (that kernel contracts some
 * into fma, its build uses fast math: same codes but for neighbours). The update uses the
 * states before they are rounded to codes. In a block whose gradients span more than three and
 * a half decades (squared: v below 1.6e-7 of its block's largest) the smallest v rounds to 0
 * and their next update explodes: the format's weakness. */
void adamw8_update(float *p, uint8_t *codes1, float *absmax1, uint8_t *codes2, float *absmax2,
                   const float *g, int64_t n, const adamw_scalars *scalars);

#endif

// exp and the activations on vectors. Coefficients are our own minimax fits; see docs/numerics.md.

// e^x to 1.5 ulp on [-87.3, 88], 0 below, e^88 above; NaN stays NaN.
DISTILRT_INLINE Vec exp(Vec x) {
  const Vec clamped = at_most(at_least(x, splat(-87.3f)), splat(88.0f));
  // Adding 1.5 * 2^23 rounds to an integer, which then sits in the low bits of the float.
  const Vec shifted = clamped * 1.44269504f + 12582912.0f;
  const Vec whole = shifted - 12582912.0f;
  const IntVec exponent = as_ints(shifted) - 0x4B400000;
  // ln 2 in two parts: the first has few enough bits that whole * part is exact.
  const Vec r = (clamped - whole * 0.693359375f) - whole * -2.12194440e-4f;
  Vec p = splat(0.001392617611993558f);
  p = p * r + 0.008363173074513711f;
  p = p * r + 0.041666554662050534f;
  p = p * r + 0.1666657702559799f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  const Vec result = p * as_floats((exponent + 127) << 23);
  return x < splat(-87.3f) ? Vec{} : result;
}

// 2^x to 8e-5 for x <= 0, for results that are rounded to bfloat16; below -126 some number under 2e-38.
DISTILRT_INLINE Vec exp2_bf16(Vec x) {
  const Vec clamped = at_least(x, splat(-126.0f));
  const Vec shifted = clamped + 12582912.0f;
  const Vec f = clamped - (shifted - 12582912.0f);
  Vec p = splat(0.055838282946219855f);
  p = p * f + 0.24263947854625853f;
  p = p * f + 0.6931367338836215f;
  p = p * f + 0.9999245569508708f;
  // The whole part goes straight into the exponent of p, which is about 1.
  return as_floats(as_ints(p) + (as_ints(shifted) << 23));
}

// x Phi(x), the exact (erf) GELU of Hendrycks and Gimpel, arXiv 1606.08415, within 1.1e-7 of max(1, |result|).
//
// Written as max(x, 0) - |x| Phi(-|x|), which cancels nowhere, so the negative tail keeps its digits too. With a = |x|,
// Phi(-a) = exp(-a^2 / 2) g(a), where g is smooth in t = 1 / (1 + 0.29 a): a polynomial of degree 8 fits it to 6.5e-8.
DISTILRT_INLINE Vec gelu(Vec x) {
  // From 14 on exp gives 0, and infinity times it must not become NaN.
  const Vec a = at_most(at_least(x, -x), splat(14.0f));
  const Vec t = splat(1.0f) / (a * 0.29f + 1.0f);
  Vec g = splat(0.03846575333806344f);
  g = g * t - 0.1892753595021405f;
  g = g * t + 0.3002231196797611f;
  g = g * t - 0.14630604171461886f;
  g = g * t + 0.18376083349787278f;
  g = g * t + 0.07693918336934964f;
  g = g * t + 0.12102403607201949f;
  g = g * t + 0.11514422874654431f;
  g = g * t + 2.421417247400736e-05f;
  return at_least(x, Vec{}) - a * exp(a * a * -0.5f) * g;
}

// The same to 1.6e-5, for results that are rounded to bfloat16 (half a unit in the last place of 1 is 2e-3): x (1/2 + c
// Q(c^2)) with c = x clamped to 4.5, where the factor is exactly 0 or 1. Q is a polynomial in t = c^2 (2 / 4.5^2) - 1,
// whose terms do not cancel as powers of c^2 would.
DISTILRT_INLINE Vec gelu_bf16(Vec x) {
  const Vec c = at_most(at_least(x, splat(-4.5f)), splat(4.5f));
  const Vec t = c * c * 0.09876543209876543f - 1.0f;
  Vec q = splat(-0.0011321532384223022f);
  q = q * t + 0.004405066732380394f;
  q = q * t - 0.007477498098156935f;
  q = q * t + 0.010537360553415503f;
  q = q * t - 0.017684080656030558f;
  q = q * t + 0.028433907608003108f;
  q = q * t - 0.040398246856169856f;
  q = q * t + 0.0546996516390798f;
  q = q * t - 0.07717760264985474f;
  q = q * t + 0.1569047060768667f;
  return x * (c * q + 0.5f);
}

// x sigmoid(x)
DISTILRT_INLINE Vec silu(Vec x) { return x / (exp(-x) + 1.0f); }

// The tanh form of the same paper, which is x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).
DISTILRT_INLINE Vec gelu_tanh(Vec x) {
  const Vec inner = x * (x * x * 0.044715f + 1.0f) * 1.59576912f;
  return x / (exp(-inner) + 1.0f);
}

DISTILRT_INLINE Vec relu(Vec x) { return at_least(x, Vec{}); }

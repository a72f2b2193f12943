// What this CPU and its operating system can run. The only file pair that asks the CPU.
#pragma once

namespace distilrt {

// Whether the operating system lets this process use the tiles that the CPU has; nothing is withheld where it has none.
// The system is asked when this is first read, since a process whose instruction set has no tiles needs no permission.
struct AmxPermission {
  bool has_tiles = false;
  operator bool() const;
};

struct CpuFeatures {
  bool avx2 = false;         // x86-64-v3: AVX2, FMA, F16C and BMI
  bool avx_vnni = false;     // 8-bit products on vectors of 32 bytes
  bool avx512 = false;       // x86-64-v4: AVX-512 F, BW, CD, DQ and VL
  bool avx512_vnni = false;  // 8-bit products on vectors of 64 bytes
  bool avx512_bf16 = false;  // bfloat16 products on vectors of 64 bytes
  bool amx_int8 = false;     // tiles, and their 8-bit products
  bool amx_bf16 = false;     // tiles, and their bfloat16 products
  AmxPermission amx_permission;
  bool dotprod = false;  // ARM: signed 8-bit products
  bool i8mm = false;     // ARM: 8-bit products of unsigned and signed, and of matrices
  bool bf16 = false;     // ARM: bfloat16 products
};

CpuFeatures cpu_features();

}  // namespace distilrt

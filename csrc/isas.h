// The instruction sets, best first: a row names an architecture, a set, the CPU features that it needs (fields of
// CpuFeatures) and the compiler's flags. setup.py reads the rows and compiles kernels.cpp once for each, with
// isas/<set>.h. Includers define X86_64, AARCH64, ANY and NEEDS; a new architecture adds its macro in dispatch.cpp.
// On ARM compilers move loads before they assign registers, and then spill sums.

X86_64(avx512_amx,
       NEEDS(avx512) NEEDS(avx512_vnni) NEEDS(avx512_bf16) NEEDS(amx_int8) NEEDS(amx_bf16) NEEDS(amx_permission),
       "-march=x86-64-v4 -mprefer-vector-width=512 -mavx512vnni -mavx512bf16 -mamx-int8 -mamx-bf16 -fno-exceptions")
X86_64(avx512_bf16, NEEDS(avx512) NEEDS(avx512_vnni) NEEDS(avx512_bf16),
       "-march=x86-64-v4 -mprefer-vector-width=512 -mavx512vnni -mavx512bf16")
X86_64(avx512_vnni, NEEDS(avx512) NEEDS(avx512_vnni), "-march=x86-64-v4 -mprefer-vector-width=512 -mavx512vnni")
X86_64(avx512, NEEDS(avx512), "-march=x86-64-v4 -mprefer-vector-width=512")
X86_64(avx2_vnni, NEEDS(avx2) NEEDS(avx_vnni), "-march=x86-64-v3 -mavxvnni")
X86_64(avx2, NEEDS(avx2), "-march=x86-64-v3")
AARCH64(neon_i8mm_bf16, NEEDS(dotprod) NEEDS(i8mm) NEEDS(bf16),
        "-march=armv8.2-a+dotprod+i8mm+bf16 -fno-schedule-insns")
AARCH64(neon_dotprod, NEEDS(dotprod), "-march=armv8.2-a+dotprod -fno-schedule-insns")
AARCH64(neon, , "-march=armv8-a -fno-schedule-insns")
ANY(generic, , "")

// The instruction sets, best first: a row names an architecture, a set, the CPU features that it needs (fields of
// CpuFeatures) and the compiler's flags. setup.py reads the rows and compiles kernels.cpp once for each, with
// isas/<set>.h. Includers define X86_64 and ANY; a row of a new architecture adds its macro here and in dispatch.cpp.

X86_64(avx512_bf16, (cpu.avx512 && cpu.avx512_vnni && cpu.avx512_bf16),
       "-march=x86-64-v4 -mprefer-vector-width=512 -mavx512vnni -mavx512bf16")
X86_64(avx512_vnni, (cpu.avx512 && cpu.avx512_vnni), "-march=x86-64-v4 -mprefer-vector-width=512 -mavx512vnni")
X86_64(avx512, cpu.avx512, "-march=x86-64-v4 -mprefer-vector-width=512")
X86_64(avx2_vnni, (cpu.avx2 && cpu.avx_vnni), "-march=x86-64-v3 -mavxvnni")
X86_64(avx2, cpu.avx2, "-march=x86-64-v3")
ANY(generic, true, "")

// scan.cu as a shared library: for every neuron and type, a function <kernel>_<neuron>_<type>(blocks, threads, ...)
// that runs the kernel over all its blocks and threads.
#include "scan.cu"

#define EXPORT(Neuron, Type)                                                                                   \
    extern "C" void scan_forward_##Neuron##_##Type(Index blocks, Index threads, FORWARD_PARAMETERS(Type)) {     \
        run(forward<Neuron, Type, false>, blocks, threads, FORWARD_ARGUMENTS);                                  \
    }                                                                                                          \
    extern "C" void scan_forward_tracking_##Neuron##_##Type(Index blocks, Index threads,                        \
                                                            FORWARD_PARAMETERS(Type)) {                         \
        run(forward<Neuron, Type, true>, blocks, threads, FORWARD_ARGUMENTS);                                   \
    }                                                                                                          \
    extern "C" void scan_backward_##Neuron##_##Type(Index blocks, Index threads, BACKWARD_PARAMETERS(Type)) {   \
        run(backward<Neuron, Type>, blocks, threads, BACKWARD_ARGUMENTS);                                       \
    }                                                                                                          \
    extern "C" void extremes_##Neuron##_##Type(Index blocks, Index threads, const void* partial_extremes,       \
                                               void* out, Index count) {                                        \
        run(gather_extremes<StateOf<Type>::type>, blocks, threads, partial_extremes, out, count);               \
    }

#define EXPORT_TYPES(Neuron)  \
    EXPORT(Neuron, float)     \
    EXPORT(Neuron, Half)      \
    EXPORT(Neuron, BFloat16)  \
    EXPORT(Neuron, double)

EXPORT_TYPES(LearnableLIF)
EXPORT_TYPES(Integrator)
EXPORT_TYPES(MultiBitLIF)
EXPORT_TYPES(MultiBitSynapticLIF)
EXPORT_TYPES(InputGatedLIF)

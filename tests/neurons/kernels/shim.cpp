// The CUDA source as a shared library: for every neuron and type, a function <kernel>_<neuron>_<type>(grid x, grid y,
// threads, shared bytes, ...) that runs the kernel over all its blocks and threads. With -DROW_TILES the library holds
// the recurrent neuron, whose products are of whole levels, of full precision or plain. Without, it holds those of
// -DNEURONS="POINTWISE_TYPES(LearnableLIF) ...".
#include "shim.h"

#include "scan.cu"

#include "recurrent.cu"

#define LAUNCH Index grid_x, Index grid_y, Index threads, Index shared_bytes
#define EACH_BLOCK grid_x, grid_y, threads, shared_bytes, false
#define TOGETHER grid_x, grid_y, threads, shared_bytes, true

#define EXTREMES(Neuron, Type)                                                                                   \
    void extremes_##Neuron##_##Type(LAUNCH, const void* partial_extremes, void* out, Index count) {             \
        run(gather_extremes<StateOf<Type>::type>, EACH_BLOCK, partial_extremes, out, count);                    \
    }

#define POINTWISE(Neuron, Type)                                                                                  \
    void scan_forward_##Neuron##_##Type(LAUNCH, FORWARD_PARAMETERS(Type)) {                                      \
        run(forward<Neuron, Type, false>, EACH_BLOCK, FORWARD_ARGUMENTS);                                       \
    }                                                                                                           \
    void scan_forward_tracking_##Neuron##_##Type(LAUNCH, FORWARD_PARAMETERS(Type)) {                            \
        run(forward<Neuron, Type, true>, EACH_BLOCK, FORWARD_ARGUMENTS);                                        \
    }                                                                                                           \
    void scan_backward_##Neuron##_##Type(LAUNCH, BACKWARD_PARAMETERS(Type)) {                                   \
        run(backward<Neuron, Type>, EACH_BLOCK, BACKWARD_ARGUMENTS);                                            \
    }                                                                                                           \
    EXTREMES(Neuron, Type)

#define POINTWISE_TYPES(Neuron)  \
    POINTWISE(Neuron, float)     \
    POINTWISE(Neuron, Half)      \
    POINTWISE(Neuron, BFloat16)  \
    POINTWISE(Neuron, double)

#define RECURRENT(kind, Type, WHOLE, TENSOR)                                                                     \
    void recurrent_forward_##kind##_##Type(LAUNCH, RECURRENT_FORWARD_PARAMETERS(Type)) {                         \
        run(forward_recurrent<Type, WHOLE, TENSOR>, TOGETHER, RECURRENT_FORWARD_ARGUMENTS);                     \
    }                                                                                                           \
    void recurrent_replay_##kind##_##Type(LAUNCH, REPLAY_PARAMETERS(StateOf<Type>::type)) {                     \
        run(replay<StateOf<Type>::type>, EACH_BLOCK, REPLAY_ARGUMENTS);                                         \
    }                                                                                                           \
    void recurrent_backward_##kind##_##Type(LAUNCH, RECURRENT_BACKWARD_PARAMETERS(Type)) {                      \
        run(backward_recurrent<Type, TENSOR>, TOGETHER, RECURRENT_BACKWARD_ARGUMENTS);                          \
    }                                                                                                           \
    void split_forward_##kind##_##Type(LAUNCH, const float* weight, Pack* pieces, Index neurons, Index slices) { \
        run(split_weight<false>, EACH_BLOCK, weight, pieces, neurons, slices);                                  \
    }                                                                                                           \
    void split_backward_##kind##_##Type(LAUNCH, const float* weight, Pack* pieces, Index neurons, Index slices) { \
        run(split_weight<true>, EACH_BLOCK, weight, pieces, neurons, slices);                                   \
    }                                                                                                           \
    EXTREMES(kind, Type)

#define RECURRENT_TYPES(Type)               \
    RECURRENT(levels, Type, true, true)     \
    RECURRENT(full, Type, false, true)      \
    RECURRENT(plain, Type, false, false)

extern "C" {
#ifdef ROW_TILES
RECURRENT_TYPES(float)
RECURRENT_TYPES(Half)
RECURRENT_TYPES(BFloat16)
RECURRENT(plain, double, false, false)
#else
NEURONS
#endif
}

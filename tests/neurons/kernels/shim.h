// Lets scan.cu compile as C++ and run on a CPU. Blocks, and the threads of a block, run one after the other, the
// last thread first, so that thread 0 of a block sees what all the others wrote to shared memory. A warp is one thread.
#pragma once
#include <math.h>
#include <string.h>

#define WARP 1
#define __device__
#define __global__
#define __shared__ static
#define __restrict__ __restrict
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __syncthreads()

struct Three {
    unsigned int x = 1, y = 1, z = 1;
};
static Three blockIdx, threadIdx, blockDim, gridDim;

static inline float __uint_as_float(unsigned int bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline unsigned int __float_as_uint(float value) {
    unsigned int bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float half_to_float(unsigned short bits) {
    _Float16 value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline unsigned short float_to_half(float value) {
    const _Float16 half = value;
    unsigned short bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}

template <class Kernel, class... Arguments>
void run(Kernel kernel, long long blocks, long long threads, Arguments... arguments) {
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
        for (long long thread = threads - 1; thread >= 0; thread--) {
            threadIdx.x = thread;
            kernel(arguments...);
        }
    }
}

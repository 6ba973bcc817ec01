// Lets the CUDA source compile as C++ and run on a CPU. Every GPU thread is a fiber; a fiber runs until it waits for
// others of its warp or block, so warps, barriers and shared memory behave as they do on a GPU, and runs repeat.
#pragma once
#define _XOPEN_SOURCE 700
#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

struct Three {
    unsigned int x = 0, y = 0, z = 0;
};

void yield();

struct Barrier {
    int expected = 0, arrived = 0, round = 0;
    void wait() {
        const int mine = round;
        if (++arrived == expected) {
            arrived = 0;
            round++;
        }
        while (round == mine) yield();
    }
};

struct Warp {  // what the lanes of a warp show each other
    Barrier barrier;
    double numbers[32];
    unsigned int a[32][4], b[32][2];
};

struct Block {
    Barrier barrier;
    std::vector<Warp> warps;
    std::vector<long double> shared;
};

struct Fiber {
    ucontext_t start;
    jmp_buf place;  // where it waits; unlike a switch of contexts, a jump needs no system call
    std::vector<char> stack = std::vector<char>(1 << 16);
    Three thread, block_index;
    Block* block;
    bool started, done;
    Warp& warp() { return block->warps[thread.x / 32]; }
};

static Fiber* fiber;
static jmp_buf scheduler;
static std::function<void()> body;
static Three gridDim, blockDim;
#define threadIdx (fiber->thread)
#define blockIdx (fiber->block_index)

inline void yield() {
    if (!_setjmp(fiber->place)) _longjmp(scheduler, 1);
}

__attribute__((noinline)) static void resume() {
    if (_setjmp(scheduler)) return;
    if (fiber->started) _longjmp(fiber->place, 1);
    fiber->started = true;
    setcontext(&fiber->start);
}

inline void enter() {
    body();
    fiber->done = true;
    yield();
}

// Run a kernel: block after block, or, together, with all blocks at once.
template <class Kernel, class... Arguments>
void run(Kernel kernel, unsigned int grid_x, unsigned int grid_y, unsigned int threads, size_t shared_bytes,
         bool together, Arguments... arguments) {
    static std::vector<std::unique_ptr<Fiber>> fibers;
    gridDim.x = grid_x, gridDim.y = grid_y, blockDim.x = threads;
    body = [&] { kernel(arguments...); };
    const unsigned int blocks = grid_x * grid_y, at_once = together ? blocks : 1;
    while (fibers.size() < (size_t)at_once * threads) fibers.emplace_back(new Fiber);
    for (unsigned int first = 0; first < blocks; first += at_once) {
        std::vector<Block> held(at_once);
        for (unsigned int i = 0; i < at_once * threads; i++) {
            Fiber& one = *fibers[i];
            Block& block = held[i / threads];
            if (i % threads == 0) {
                block.barrier.expected = threads;
                block.warps.resize((threads + 31) / 32);
                block.shared.resize(shared_bytes / sizeof(long double) + 1);
            }
            one.block = &block;
            one.started = one.done = false;
            one.thread.x = i % threads;
            one.block_index.x = (first + i / threads) % grid_x;
            one.block_index.y = (first + i / threads) / grid_x;
            one.warp().barrier.expected++;
            getcontext(&one.start);
            one.start.uc_stack.ss_sp = one.stack.data();
            one.start.uc_stack.ss_size = one.stack.size();
            makecontext(&one.start, enter, 0);
        }
        for (bool running = true; running;) {
            running = false;
            for (unsigned int i = 0; i < at_once * threads; i++) {
                fiber = fibers[i].get();
                if (fiber->done) continue;
                resume();
                running |= !fiber->done;
            }
        }
    }
}

#define __device__
#define __global__
#define __shared__ static  // of kernels whose blocks run one after the other
#define __restrict__ __restrict
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __syncthreads() (fiber->block->barrier.wait())
#define __threadfence()
#define DYNAMIC_SHARED(name) char* name = (char*)fiber->block->shared.data()
#define PAUSE() yield()

template <class Number>
Number __shfl_xor_sync(unsigned int, Number value, int distance) {
    Warp& warp = fiber->warp();
    const int lane = threadIdx.x % 32;
    warp.numbers[lane] = value;
    warp.barrier.wait();
    const Number other = warp.numbers[lane ^ distance];
    warp.barrier.wait();
    return other;
}

static inline unsigned int atomicAdd(unsigned int* counter, unsigned int value) {
    const unsigned int before = *counter;
    *counter += value;
    return before;
}
static inline unsigned int arrivals(unsigned int* counter) { return *counter; }
template <class Any>
Any load_shared_by_blocks(const Any* from) {
    return *from;
}

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

// The matrix instruction m16n8k16, where the PTX manual says that each lane's numbers lie: c[row][column] gains the sum
// over k of a[row][k] b[k][column].
static inline void multiply_add(float* c, unsigned int a0, unsigned int a1, unsigned int a2, unsigned int a3,
                                unsigned int b0, unsigned int b1) {
    Warp& warp = fiber->warp();
    const int lane = threadIdx.x % 32;
    const unsigned int a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
    memcpy(warp.a[lane], a, sizeof a);
    memcpy(warp.b[lane], b, sizeof b);
    warp.barrier.wait();
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            const unsigned int of_a = warp.a[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
            const unsigned int of_b = warp.b[column * 4 + k % 8 / 2][k / 8];
            const int shift = k % 2 * 16;
            c[i] += __uint_as_float(of_a >> shift << 16) * __uint_as_float(of_b >> shift << 16);
        }
    }
    warp.barrier.wait();
}

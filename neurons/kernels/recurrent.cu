// The recurrent-gated LIF: one launch for the whole sequence. It is compiled after scan.cu, in one source. The blocks
// divide the neurons (16 per block, a column tile) and the batch (ROWS per block, a row tile), and all are on the
// device at once. In each step a block multiplies the last spikes of its rows with its columns of U, takes the gated
// step on the result, and writes its spikes to the exchange buffer; then the blocks of a row tile wait for each other.
// If there are more tiles than blocks, the blocks take turns. Launch it cooperatively.
//
// The product runs on the tensor cores in bfloat16 and loses nothing of float32: U is split into three
// bfloat16 pieces that add up to it, and spikes are whole numbers of levels, which bfloat16 holds exactly
// (at full precision, and for gradients, the other factor is split too). For float64, and on devices whose tensor
// cores know no bfloat16, it is a plain sum over U itself.

// Compile with -DSCALAR, -DROW_TILES=1 or 2, -DWHOLE_LEVELS=true or false (full precision) and -DTENSOR_CORES=true
// or false.

#ifdef ROW_TILES

#ifdef __CUDACC__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]
#define PAUSE()
#endif

enum {
    WARPS = 8,
    THREADS = WARPS * WARP,
    ROWS = 16 * ROW_TILES,
    NEURONS = 16,                             // per column tile
    PER_THREAD = ROWS * NEURONS / THREADS,    // elements of a tile
    DEPTH = 32,                               // per slice of the product: two matrix instructions
    PIECES = 3,
};

struct Pack {  // 16 bytes: eight bfloat16, or four float
    unsigned int word[4];
};

#ifdef __CUDACC__
__device__ __forceinline__ Pack load_shared_by_blocks(const Pack* from) {  // bypasses the stale first-level cache
    const uint4 pack = __ldcg((const uint4*)from);
    return {{pack.x, pack.y, pack.z, pack.w}};
}
template <class Real>
__device__ __forceinline__ Real load_shared_by_blocks(const Real* from) {
    return __ldcg(from);
}
__device__ __forceinline__ unsigned int arrivals(unsigned int* counter) {
    return *(volatile unsigned int*)counter;
}
// c += a b for a [16, 16], b [16, 8] spread over the warp as mma.m16n8k16 takes them.
__device__ __forceinline__ void multiply_add(float* c, unsigned int a0, unsigned int a1, unsigned int a2,
                                             unsigned int a3, unsigned int b0, unsigned int b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
}
#endif

// All blocks that use this counter wait here for each other; earlier arrivals stay counted.
__device__ __forceinline__ void meet(unsigned int* counter, unsigned int all_arrived) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(counter, 1u);
        while ((int)(arrivals(counter) - all_arrived) < 0) PAUSE();
        __threadfence();
    }
    __syncthreads();
}

// ---- U in pieces ----

__device__ __forceinline__ unsigned int pair(float low, float high) {
    return narrow<BFloat16>(low).bits | (unsigned int)narrow<BFloat16>(high).bits << 16;
}

// Splits two numbers into PIECES pairs of bfloat16 that add up to them.
__device__ __forceinline__ void split(float low, float high, unsigned int* pieces) {
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        pieces[i] = pair(low, high);
        low -= __uint_as_float(pieces[i] << 16);
        high -= __uint_as_float(pieces[i] & 0xffff0000u);
    }
}

// The order of U's pieces: [column tile][8 columns][slice of DEPTH][piece][lane], a Pack per lane: column lane / 4,
// depth from 8 * (lane % 4) on. The matrix instruction expects another order of depths, but any order works if both
// factors share it. Forward the columns of a tile are the gates of its neurons, then their candidates, and the depth is
// the neurons that spiked. Backward the columns are the neurons, and the depth is the gradients of all gates, then of
// all candidates.
template <bool BACKWARD>
__device__ __forceinline__ void split_weight(const float* weight, Pack* pieces, Index neurons, Index slices) {
    enum { COLUMNS = BACKWARD ? NEURONS : 2 * NEURONS };
    const Index column_tiles = (neurons + NEURONS - 1) / NEURONS, depth = BACKWARD ? 2 * neurons : neurons;
    const Index count = column_tiles * (COLUMNS / 8) * slices * 32;
    for (Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (Index)gridDim.x * blockDim.x) {
        const Index lane = i % 32, slice = i / 32 % slices, eight = i / 32 / slices;
        const Index column = eight * 8 % COLUMNS + lane / 4, tile = eight * 8 / COLUMNS;
        const Index neuron = tile * NEURONS + column % NEURONS, half = column / NEURONS;
        float values[8];
        for (int j = 0; j < 8; j++) {
            const Index k = slice * DEPTH + lane % 4 * 8 + j;
            const Index from = BACKWARD ? neuron * 2 * neurons + k : k * 2 * neurons + half * neurons + neuron;
            values[j] = neuron < neurons && k < depth ? weight[from] : 0.f;
        }
        Pack split_values[PIECES];
        for (int j = 0; j < 4; j++) {
            unsigned int words[PIECES];
            split(values[2 * j], values[2 * j + 1], words);
            for (int piece = 0; piece < PIECES; piece++) split_values[piece].word[j] = words[piece];
        }
        for (int piece = 0; piece < PIECES; piece++) {
            pieces[((eight * slices + slice) * PIECES + piece) * 32 + lane] = split_values[piece];
        }
    }
}

// ---- The product of one tile ----

// One lane's share of a slice of a row tile of the exchanged matrix, as it lies in memory.
template <bool WHOLE>
struct Rows {
    enum { PACKS = WHOLE ? 1 : 2 };  // for eight numbers
    Pack packs[ROW_TILES][2][PACKS];

    __device__ __forceinline__ void load(const Pack* exchange, Index row, Index stride, int slice, int lane) {
#pragma unroll
        for (int i = 0; i < ROW_TILES * 2; i++) {
            const Pack* from = exchange + (row + i * 8 + lane / 4) * stride + (slice * 4 + lane % 4) * PACKS;
#pragma unroll
            for (int j = 0; j < PACKS; j++) packs[i / 2][i % 2][j] = load_shared_by_blocks(from + j);
        }
    }

    // The pieces of the pair of numbers j (0 to 3) of row tile i, half h.
    __device__ __forceinline__ void pieces(int i, int h, int j, unsigned int* words) const {
        if (WHOLE) {
            words[0] = packs[i][h][0].word[j];
        } else {
            const Pack& pack = packs[i][h][j / 2 * (PACKS - 1)];
            split(__uint_as_float(pack.word[j % 2 * 2]), __uint_as_float(pack.word[j % 2 * 2 + 1]), words);
        }
    }
};

// A tile's place in shared memory, chosen to avoid bank conflicts of the lanes that write it and of those that read it.
template <int COLUMNS>
__device__ __forceinline__ int place(int row, int column) {
    return row * COLUMNS + (column ^ (row * COLUMNS / 32 & (COLUMNS / 8 - 1)) << 3);
}

// Each warp multiplies its share of the slices, for all rows and columns of the tile, and leaves its sums in
// partial [WARPS, ROWS, COLUMNS]. WHOLE: the rows are whole numbers in bfloat16; otherwise they are float.
template <int COLUMNS, bool WHOLE>
__device__ __forceinline__ void multiply(const Pack* exchange, Index row, Index stride, const Pack* weight, int slices,
                                         float* partial) {
    enum { EIGHTS = COLUMNS / 8, AHEAD = WHOLE ? 4 : 2 };
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float sums[ROW_TILES][EIGHTS][4] = {};
    Rows<WHOLE> ahead[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
        if (warp + i * WARPS < slices) ahead[i].load(exchange, row, stride, warp + i * WARPS, lane);
    }
    for (int base = warp; base < slices; base += AHEAD * WARPS) {
#pragma unroll
        for (int slot = 0; slot < AHEAD; slot++) {
            const int slice = base + slot * WARPS;
            if (slice >= slices) break;
            const Rows<WHOLE> rows = ahead[slot];
            if (slice + AHEAD * WARPS < slices) {
                ahead[slot].load(exchange, row, stride, slice + AHEAD * WARPS, lane);
            }
#pragma unroll
            for (int k = 0; k < 4; k += 2) {  // one matrix instruction's depth: two pairs
                unsigned int a[ROW_TILES][4][PIECES];
#pragma unroll
                for (int i = 0; i < ROW_TILES; i++) {
                    rows.pieces(i, 0, k, a[i][0]);
                    rows.pieces(i, 1, k, a[i][1]);
                    rows.pieces(i, 0, k + 1, a[i][2]);
                    rows.pieces(i, 1, k + 1, a[i][3]);
                }
#pragma unroll
                for (int column = 0; column < EIGHTS; column++) {
#pragma unroll
                    for (int piece = PIECES - 1; piece >= 0; piece--) {
                        const Pack& b = weight[((column * slices + slice) * PIECES + piece) * 32 + lane];
#pragma unroll
                        for (int other = WHOLE ? 0 : PIECES - 1 - piece; other >= 0; other--) {
#pragma unroll
                            for (int i = 0; i < ROW_TILES; i++) {
                                multiply_add(sums[i][column], a[i][0][other], a[i][1][other], a[i][2][other],
                                             a[i][3][other], b.word[k], b.word[k + 1]);
                            }
                        }
                    }
                }
            }
        }
    }
    float* mine = partial + warp * ROWS * COLUMNS;
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
        for (int column = 0; column < EIGHTS; column++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int at = place<COLUMNS>(i * 16 + j / 2 * 8 + lane / 4, column * 8 + lane % 4 * 2 + j % 2);
                mine[at] = sums[i][column][j];
            }
        }
    }
}

// The product of the exchanged rows with one tile's columns of U, on the tensor cores. stride is in numbers.
template <int COLUMNS, bool WHOLE>
struct TensorProduct {
    enum { PARTIAL_BYTES = WARPS * ROWS * COLUMNS * 4 };
    const Pack *weight, *tile;
    Index stride, tile_packs;
    int slices;
    float* partial;

    // resident: this block has only one column tile, and its pieces of U fit into shared memory and stay there.
    __device__ __forceinline__ TensorProduct(const void* pieces, Index neurons, Index slices, bool resident,
                                             char* shared)
        : weight((const Pack*)pieces), tile(0), stride(slices * DEPTH),
          tile_packs((Index)COLUMNS / 8 * slices * PIECES * 32), slices(slices), partial((float*)shared) {
        if (!resident || blockIdx.x * NEURONS >= neurons) return;
        Pack* copy = (Pack*)(shared + PARTIAL_BYTES);
        for (Index i = threadIdx.x; i < tile_packs; i += THREADS) copy[i] = weight[blockIdx.x * tile_packs + i];
        tile = copy;
        __syncthreads();
    }

    // All threads of the block must call this together.
    __device__ __forceinline__ void take(const void* exchange, Index row, Index column_tile) const {
        const Pack* pieces = tile ? tile : weight + column_tile * tile_packs;
        multiply<COLUMNS, WHOLE>((const Pack*)exchange, row, stride / (WHOLE ? 8 : 4), pieces, slices, partial);
        __syncthreads();
    }

    // One element of the result of take, by its place in the tile.
    __device__ __forceinline__ float at(int row, int column) const {
        float sum = 0;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) {
            sum += partial[warp * ROWS * COLUMNS + place<COLUMNS>(row, column)];
        }
        return sum;
    }
};

// The same product, as plain sums over U itself.
template <int COLUMNS, class Real>
struct PlainProduct {
    const Real *weight, *rows;
    Index stride, neurons, first_neuron;

    __device__ __forceinline__ PlainProduct(const void* weight, Index neurons, Index slices, bool, char*)
        : weight((const Real*)weight), rows(0), stride(slices * DEPTH), neurons(neurons), first_neuron(0) {}

    __device__ __forceinline__ void take(const void* exchange, Index row, Index column_tile) {
        rows = (const Real*)exchange + row * stride;
        first_neuron = column_tile * NEURONS;
    }

    __device__ __forceinline__ Real at(int row, int column) const {
        const bool forward = COLUMNS > NEURONS;
        const Index neuron = first_neuron + column % NEURONS, half = column / NEURONS;
        const Real* factor = weight + (forward ? half * neurons + neuron : neuron * 2 * neurons);
        const Index depth = forward ? neurons : 2 * neurons, step = forward ? 2 * neurons : 1;
        Real sum = 0;
        for (Index k = 0; k < depth; k++) sum += load_shared_by_blocks(rows + row * stride + k) * factor[k * step];
        return sum;
    }
};

template <int COLUMNS, bool WHOLE, class Real, bool TENSOR>
struct ProductOf {
    typedef TensorProduct<COLUMNS, WHOLE> type;
};
template <int COLUMNS, bool WHOLE, class Real>
struct ProductOf<COLUMNS, WHOLE, Real, false> {
    typedef PlainProduct<COLUMNS, Real> type;
};

// ---- The scans ----

// The gate's and the candidate's value of one neuron.
template <class Number>
__device__ __forceinline__ void load_both(Number* into, const Number* from, Index neurons) {
    into[0] = from[0];
    into[1] = from[neurons];
}

struct Place {  // one of this thread's elements of a tile
    int row_in_tile, column;
    Index row, neuron, element;
    bool exists;

    __device__ __forceinline__ Place(int i, Index row_tile, Index column_tile, Index batch, Index neurons) {
        const int in_tile = threadIdx.x + i * THREADS;
        row_in_tile = in_tile / NEURONS;
        column = in_tile % NEURONS;
        row = row_tile * ROWS + row_in_tile;
        neuron = column_tile * NEURONS + column;
        element = row * neurons + neuron;
        exists = row < batch && neuron < neurons;
    }
};

// x [T, B, 2C]; first_product [B, 2C] is the state's spikes times U. final_current and final_membrane [B, C] also hold
// the state during the scan. kept [T, B, 2C] receives the arguments of the sigmoid and of the relu, unless it is null.
// exchange [2, rows, slices * DEPTH] and the counters, one per row tile, must be zero at the start. weight is U, or its
// pieces.
#define RECURRENT_FORWARD_PARAMETERS(Scalar)                                                                       \
    const Scalar *__restrict__ x, const void *state0, const void *state1, const void *__restrict__ first_product,  \
        const void *__restrict__ weight, const void *range, Scalar *__restrict__ y, void *final_current,           \
        void *final_membrane, void *final_spikes, void *kept, void *partial_extremes, void *exchange,              \
        unsigned int *counters, Index steps, Index batch, Index neurons, Index rows, Index slices, Index resident, \
        double setting0, double setting1
#define RECURRENT_FORWARD_ARGUMENTS                                                                                \
    x, state0, state1, first_product, weight, range, y, final_current, final_membrane, final_spikes, kept,         \
        partial_extremes, exchange, counters, steps, batch, neurons, rows, slices, resident, setting0, setting1

template <class Scalar, bool WHOLE, bool TENSOR>
__device__ __forceinline__ void forward_recurrent(RECURRENT_FORWARD_PARAMETERS(Scalar)) {
    typedef typename StateOf<Scalar>::type Real;
    typedef typename ProductOf<2 * NEURONS, WHOLE, Real, TENSOR>::type Product;
    DYNAMIC_SHARED(shared);
    Product product(weight, neurons, slices, resident, shared);
    const Settings settings = {0, 0, range, 0, 0, setting0, setting1};
    const InputGatedLIF<Real> neuron(settings);
    const Index row_tiles = rows / ROWS, column_tiles = (neurons + NEURONS - 1) / NEURONS, stride = slices * DEPTH;
    const Index number = WHOLE ? sizeof(BFloat16) : sizeof(Real);
    Real minimum = infinity<Real>(), maximum = -infinity<Real>();

    for (Index step = 0; step < steps; step++) {
        const char* received = (const char*)exchange + (step + 1) % 2 * rows * stride * number;
        char* published = (char*)exchange + step % 2 * rows * stride * number;
        for (Index row_tile = blockIdx.y; row_tile < row_tiles; row_tile += gridDim.y) {
            for (Index column_tile = blockIdx.x; column_tile < column_tiles; column_tile += gridDim.x) {
                Scalar raw[PER_THREAD][2];
                Real state[PER_THREAD][2];
#pragma unroll
                for (int i = 0; i < PER_THREAD; i++) {
                    const Place place(i, row_tile, column_tile, batch, neurons);
                    if (!place.exists) continue;
                    load_both(raw[i], x + (step * batch + place.row) * 2 * neurons + place.neuron, neurons);
                    state[i][0] = ((const Real*)(step ? final_current : state0))[place.element];
                    state[i][1] = ((const Real*)(step ? final_membrane : state1))[place.element];
                }
                if (step) product.take(received, row_tile * ROWS, column_tile);
#pragma unroll
                for (int i = 0; i < PER_THREAD; i++) {
                    const Place place(i, row_tile, column_tile, batch, neurons);
                    if (!place.exists) continue;
                    Real inputs[2];
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const Index at = place.row * 2 * neurons + half * neurons + place.neuron;
                        Real sum;
                        if (step) {
                            sum = product.at(place.row_in_tile, half * NEURONS + place.column);
                            if (WHOLE) sum /= neuron.spike.scale;
                        } else {
                            sum = ((const Real*)first_product)[at];
                        }
                        inputs[half] = widen(raw[i][half]) + sum;
                        if (kept) ((Real*)kept)[step * batch * 2 * neurons + at] = inputs[half];
                    }
                    typename InputGatedLIF<Real>::Trace trace;
                    const Real spike = neuron.step(inputs, state[i], trace);
                    minimum = lower(minimum, trace.membrane);
                    maximum = upper(maximum, trace.membrane);
                    y[step * batch * neurons + place.element] = narrow<Scalar>(spike);
                    ((Real*)final_current)[place.element] = state[i][0];
                    ((Real*)final_membrane)[place.element] = state[i][1];
                    if (step + 1 == steps) ((Real*)final_spikes)[place.element] = spike;
                    const Index to = place.row * stride + place.neuron;
                    if (WHOLE) {
                        ((BFloat16*)published)[to] = narrow<BFloat16>((float)neuron.spike.levels(trace.membrane));
                    } else {
                        ((Real*)published)[to] = spike;
                    }
                }
                __syncthreads();
            }
        }
        if (step + 1 < steps) meet(counters + blockIdx.y, gridDim.x * (unsigned int)(step + 1));
    }
    if (partial_extremes) {
        over_warp(minimum, maximum);
        const Index warp = ((Index)blockIdx.y * gridDim.x + blockIdx.x) * WARPS + threadIdx.x / WARP;
        if (threadIdx.x % WARP == 0) {
            ((Real*)partial_extremes)[warp * 2] = minimum;
            ((Real*)partial_extremes)[warp * 2 + 1] = maximum;
        }
    }
}

// Computes what the backward needs of every step, from kept: the synaptic current and the spikes before the step, and
// the membrane before its spike, each [T, B, C]. One thread per element, as in scan.cu.
#define REPLAY_PARAMETERS(Real)                                                                                    \
    const Real *__restrict__ kept, const Real *state0, const Real *state1, const Real *state2, const Real *range,  \
        Real *__restrict__ currents, Real *__restrict__ membranes, Real *__restrict__ spikes, Index steps,         \
        Index elements, Index neurons, double setting0, double setting1
#define REPLAY_ARGUMENTS                                                                                           \
    kept, state0, state1, state2, range, currents, membranes, spikes, steps, elements, neurons, setting0, setting1

template <class Real>
__device__ __forceinline__ void replay_element(const InputGatedLIF<Real>& neuron, Index e, REPLAY_PARAMETERS(Real)) {
    const Real* next = kept + Element(e, neurons, 1, 2).x;
    Real state[2] = {state0[e], state1[e]}, spike = state2[e], ahead[STEPS][2];
#pragma unroll
    for (int i = 0; i < STEPS; i++, next += elements * 2) {
        if (i < steps) load_both(ahead[i], next, neurons);
    }
    Index at = e;
    for (Index left = steps; left > 0; left -= STEPS) {
#pragma unroll
        for (int i = 0; i < STEPS; i++, at += elements, next += elements * 2) {
            if (i >= left) break;
            const Real inputs[2] = {ahead[i][0], ahead[i][1]};
            if (i + STEPS < left) load_both(ahead[i], next, neurons);
            typename InputGatedLIF<Real>::Trace trace;
            spikes[at] = spike;
            spike = neuron.step(inputs, state, trace);
            currents[at] = trace.current_before;
            membranes[at] = trace.membrane;
        }
    }
}

template <class Real>
__device__ __forceinline__ void replay(REPLAY_PARAMETERS(Real)) {
    const Settings settings = {0, 0, range, 0, 0, setting0, setting1};
    InputGatedLIF<Real> neuron(settings);
    for (Index e = (Index)blockIdx.x * blockDim.x + threadIdx.x; e < elements; e += (Index)gridDim.x * blockDim.x) {
        if (neuron.ordinary()) {
            InputGatedLIF<Real> same = neuron;
            same.ordinary() = true;
            replay_element(same, e, REPLAY_ARGUMENTS);
        } else {
            replay_element(neuron, e, REPLAY_ARGUMENTS);
        }
    }
}

// From the last step to the first: the gradient of a step's spikes is the sum of that of y and of what the next step's
// product passes back. gradient_currents and gradient_membranes [B, C] also hold the state's gradient during the scan.
// sums [T, B, 2C] receives gradient_x unrounded, unless it is null. The gradients of the final state may be null
// (zero).
#define RECURRENT_BACKWARD_PARAMETERS(Scalar)                                                                      \
    const void *__restrict__ kept, const void *__restrict__ currents, const void *__restrict__ membranes,          \
        const Scalar *__restrict__ gradient_y, const void *gradient_final0, const void *gradient_final1,           \
        const void *gradient_final2, const void *__restrict__ weight, const void *range,                           \
        Scalar *__restrict__ gradient_x, void *sums, void *gradient_current, void *gradient_membrane,              \
        void *gradient_spikes, void *exchange, unsigned int *counters, Index steps, Index batch, Index neurons,    \
        Index rows, Index slices, Index resident, double setting0, double setting1
#define RECURRENT_BACKWARD_ARGUMENTS                                                                               \
    kept, currents, membranes, gradient_y, gradient_final0, gradient_final1, gradient_final2, weight, range,       \
        gradient_x, sums, gradient_current, gradient_membrane, gradient_spikes, exchange, counters, steps, batch,  \
        neurons, rows, slices, resident, setting0, setting1

template <class Real>
__device__ __forceinline__ Real or_zero(const void* numbers, Index at) {
    return numbers ? ((const Real*)numbers)[at] : Real(0);
}

template <class Scalar, bool TENSOR>
__device__ __forceinline__ void backward_recurrent(RECURRENT_BACKWARD_PARAMETERS(Scalar)) {
    typedef typename StateOf<Scalar>::type Real;
    typedef typename ProductOf<NEURONS, false, Real, TENSOR>::type Product;
    DYNAMIC_SHARED(shared);
    Product product(weight, neurons, slices, resident, shared);
    const Settings settings = {0, 0, range, 0, 0, setting0, setting1};
    const InputGatedLIF<Real> neuron(settings);
    const Index row_tiles = rows / ROWS, column_tiles = (neurons + NEURONS - 1) / NEURONS, stride = slices * DEPTH;

    for (Index done = 0; done <= steps; done++) {  // the last turn is the product for the spikes before the first step
        const Index step = steps - 1 - done;
        const Real* received = (const Real*)exchange + (done + 1) % 2 * rows * stride;
        Real* published = (Real*)exchange + done % 2 * rows * stride;
        for (Index row_tile = blockIdx.y; row_tile < row_tiles; row_tile += gridDim.y) {
            for (Index column_tile = blockIdx.x; column_tile < column_tiles; column_tile += gridDim.x) {
                Real inputs[PER_THREAD][2], current[PER_THREAD], membrane[PER_THREAD], gradient_state[PER_THREAD][2];
                Scalar outer[PER_THREAD];
#pragma unroll
                for (int i = 0; i < PER_THREAD; i++) {
                    const Place place(i, row_tile, column_tile, batch, neurons);
                    if (!place.exists || done == steps) continue;
                    const Index at = step * batch * neurons + place.element;
                    const Index in_kept = (step * batch + place.row) * 2 * neurons + place.neuron;
                    load_both(inputs[i], (const Real*)kept + in_kept, neurons);
                    current[i] = ((const Real*)currents)[at];
                    membrane[i] = ((const Real*)membranes)[at];
                    outer[i] = gradient_y[at];
                    gradient_state[i][0] = or_zero<Real>(done ? gradient_current : gradient_final0, place.element);
                    gradient_state[i][1] = or_zero<Real>(done ? gradient_membrane : gradient_final1, place.element);
                }
                if (done) product.take(received, row_tile * ROWS, column_tile);
#pragma unroll
                for (int i = 0; i < PER_THREAD; i++) {
                    const Place place(i, row_tile, column_tile, batch, neurons);
                    if (!place.exists) continue;
                    const Real passed_back = done ? product.at(place.row_in_tile, place.column)
                                                  : or_zero<Real>(gradient_final2, place.element);
                    if (done == steps) {
                        ((Real*)gradient_spikes)[place.element] = passed_back;
                        continue;
                    }
                    const typename InputGatedLIF<Real>::Trace trace = neuron.trace(inputs[i], current[i], membrane[i]);
                    Real gradient_inputs[2];
                    neuron.backward(trace, widen(outer[i]) + passed_back, gradient_inputs, gradient_state[i], 0);
                    ((Real*)gradient_current)[place.element] = gradient_state[i][0];
                    ((Real*)gradient_membrane)[place.element] = gradient_state[i][1];
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const Index column = half * neurons + place.neuron;
                        const Index at = (step * batch + place.row) * 2 * neurons + column;
                        gradient_x[at] = narrow<Scalar>(gradient_inputs[half]);
                        if (sums) ((Real*)sums)[at] = gradient_inputs[half];
                        published[place.row * stride + column] = gradient_inputs[half];
                    }
                }
                __syncthreads();
            }
        }
        if (done < steps) meet(counters + blockIdx.y, gridDim.x * (unsigned int)(done + 1));
    }
}

#ifdef SCALAR
extern "C" {
__global__ void __launch_bounds__(256) split_forward(const float* weight, Pack* pieces, Index neurons, Index slices) {
    split_weight<false>(weight, pieces, neurons, slices);
}
__global__ void __launch_bounds__(256) split_backward(const float* weight, Pack* pieces, Index neurons, Index slices) {
    split_weight<true>(weight, pieces, neurons, slices);
}
__global__ void __launch_bounds__(THREADS, 1) recurrent_forward(RECURRENT_FORWARD_PARAMETERS(SCALAR)) {
    forward_recurrent<SCALAR, WHOLE_LEVELS, TENSOR_CORES>(RECURRENT_FORWARD_ARGUMENTS);
}
__global__ void __launch_bounds__(128) recurrent_replay(REPLAY_PARAMETERS(StateOf<SCALAR>::type)) {
    replay<StateOf<SCALAR>::type>(REPLAY_ARGUMENTS);
}
__global__ void __launch_bounds__(THREADS, 1) recurrent_backward(RECURRENT_BACKWARD_PARAMETERS(SCALAR)) {
    backward_recurrent<SCALAR, TENSOR_CORES>(RECURRENT_BACKWARD_ARGUMENTS);
}
}
#endif

#endif  // ROW_TILES

// Scans of the neurons along a sequence: one thread per element of [B, C, S], time in the inner loop, the state in
// registers. Compiled at run time, once per neuron and type of x: -DNEURON=InputGatedLIF -DSCALAR=BFloat16. The steps
// compute the same as the reference steps of the neurons package, in the same order, so that spikes are equal bit for
// bit; compile without contraction to fused multiply-adds. Without __CUDACC__ this is C++ for the simulated GPU of the
// tests.
//
// x is [T, B, INPUTS * C, S], y is [T, B, C, S], both contiguous. Sizes are 64-bit throughout.

#define WARP 32
#ifndef STEPS
#define STEPS 8  // time steps loaded ahead, and from one checkpoint to the next
#endif

typedef long long Index;

// ---- Numbers: half-precision types are raw bits in memory and float in registers ----

struct Half {
    unsigned short bits;
};
struct BFloat16 {
    unsigned short bits;
};

template <class Scalar>
struct StateOf {
    typedef float type;
};
template <>
struct StateOf<double> {
    typedef double type;
};

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(BFloat16 value) { return __uint_as_float((unsigned int)value.bits << 16); }

template <class Scalar>
__device__ __forceinline__ Scalar narrow(float value) {
    return value;
}
template <class Scalar>
__device__ __forceinline__ Scalar narrow(double value) {
    return value;
}

#ifdef __CUDACC__
__device__ __forceinline__ float widen(Half value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}
template <>
__device__ __forceinline__ Half narrow<Half>(float value) {
    Half half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
    return half;
}
#else
inline float widen(Half value) { return half_to_float(value.bits); }
template <>
inline Half narrow<Half>(float value) {
    return Half{float_to_half(value)};
}
#endif

template <>
__device__ __forceinline__ BFloat16 narrow<BFloat16>(float value) {
    BFloat16 half;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
#else  // round to nearest, ties to even; a NaN keeps its upper bits, made quiet
    unsigned int bits = __float_as_uint(value);
    half.bits = value != value ? (bits >> 16) | 0x40 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#endif
    return half;
}

__device__ __forceinline__ float exponential(float value) { return expf(value); }
__device__ __forceinline__ double exponential(double value) { return exp(value); }
__device__ __forceinline__ float magnitude(float value) { return fabsf(value); }
__device__ __forceinline__ double magnitude(double value) { return fabs(value); }
__device__ __forceinline__ float truncated(float value) { return truncf(value); }
__device__ __forceinline__ double truncated(double value) { return trunc(value); }
__device__ __forceinline__ float least(float a, float b) { return fminf(a, b); }  // ignores NaN
__device__ __forceinline__ double least(double a, double b) { return fmin(a, b); }
__device__ __forceinline__ float most(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double most(double a, double b) { return fmax(a, b); }
__device__ __forceinline__ float fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double fused(double a, double b, double c) { return fma(a, b, c); }

// The smaller and the larger of two; NaN if either is.
template <class Real>
__device__ __forceinline__ Real lower(Real a, Real b) {
    return a < b || a != a ? a : b;
}
template <class Real>
__device__ __forceinline__ Real upper(Real a, Real b) {
    return a > b || a != a ? a : b;
}
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <>
__device__ __forceinline__ float lower(float a, float b) {
    float least;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"(a), "f"(b));
    return least;
}
template <>
__device__ __forceinline__ float upper(float a, float b) {
    float most;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(a), "f"(b));
    return most;
}
#endif

// 1 / value for a value of at least 1: an estimate and one correction, rounded like a division. (A result below the
// smallest normal number becomes 0.)
__device__ __forceinline__ float reciprocal(float value) {
    float estimate;
#ifdef __CUDACC__
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(estimate) : "f"(value));
#else
    estimate = 1 / value;
#endif
    return value > 8e37f ? 0.f : fused(estimate, fused(-value, estimate, 1.f), estimate);
}
__device__ __forceinline__ double reciprocal(double value) { return 1 / value; }

template <class Real>
__device__ __forceinline__ Real sigmoid(Real value) {
    return reciprocal(Real(1) + exponential(-value));
}

template <class Real>
__device__ __forceinline__ Real infinity() {
    return Real(1) / Real(0);
}

// ---- The multi-bit spike ----

template <class Real>
struct MultiBitSpike {
    Real range, lowest, scale, inverse, first_level, centre, reach;
    bool full_precision, ordinary;

    __device__ __forceinline__ MultiBitSpike(const Real* range_pointer, Index bits, Index threshold_levels) {
        range = *range_pointer;
        full_precision = bits == 32;
        lowest = bits == 1 ? Real(0) : -range;  // one bit has only the positive level
        const Real levels = (double)((Index)1 << (bits == 1 ? 1 : bits - 1)) * (1 - 1e-4);
        scale = Real(1) / range * levels;  // two roundings, as in the reference
        inverse = Real(1) / scale;
        first_level = threshold_levels + 1;
        centre = bits == 1 ? range / 2 : Real(0);
        reach = bits == 1 ? range / 4 : range;
        ordinary = sizeof(Real) == 4 && !full_precision && scale > Real(1e-30) && scale < Real(1e30);
    }

    // q / scale for a whole number q of at most 127, rounded like a division: a product with the rounded inverse and
    // one correction give the same bits (tried on every pair), in a third of the time.
    __device__ __forceinline__ Real divided(Real q) const {
        if (!ordinary) return q / scale;
        const Real quotient = q * inverse;
        return fused(fused(-scale, quotient, q), inverse, quotient);
    }

    // The whole number of levels of a spike, unless it has full precision.
    __device__ __forceinline__ Real levels(Real membrane) const {
        const Real level = scale * lower(upper(membrane, lowest), range);
        return magnitude(level) < first_level ? Real(0) : truncated(level);
    }

    __device__ __forceinline__ Real operator()(Real membrane) const {
        if (!ordinary && full_precision) return lower(upper(membrane, lowest), range);
        return divided(levels(membrane));
    }

    // The gradient with respect to the membrane: straight through near the centre. Elsewhere, a gradient that is not
    // finite gives NaN, as multiplying by a mask does.
    __device__ __forceinline__ Real backward(Real membrane, Real gradient) const {
        if (magnitude(membrane - centre) <= reach) return gradient;
        return !ordinary && full_precision ? Real(0) : gradient * Real(0);
    }
};

// ---- The neurons ----
//
// step advances the state by one time step, returns y and fills in the trace: what the step's backward needs.
// backward turns the gradients of y and of the new state into those of x and of the old state (in place), and
// adds those of the parameters. A neuron is ordinary if its constants lie where short cuts give the same numbers; the
// kernels have a copy of their loops for ordinary neurons, in which the compiler omits the general case.

struct Settings {  // a kernel's arguments; each neuron's constructor reads what it needs
    const void *parameter0, *parameter1, *range;
    Index channel0, channel1;  // this element's place in each parameter
    double setting0, setting1;
};

template <class Real>
struct LearnableLIF {
    enum { INPUTS = 1, STATES = 1, PARAMETERS = 2 };
    Real leak, threshold, inverse_threshold, gamma;
    bool ordinary_threshold, tail, to_zero, no_reset;  // tail: the surrogate is the arctan's; the others: the reset

    struct Trace {
        Real membrane, before;
    };

    __device__ __forceinline__ LearnableLIF(const Settings& s) {
        leak = ((const Real*)s.parameter0)[s.channel0];
        threshold = ((const Real*)s.parameter1)[s.channel1];
        inverse_threshold = Real(1) / threshold;
        gamma = s.setting0;
        tail = (int)s.setting1 & 1;
        to_zero = (int)s.setting1 & 2;
        no_reset = (int)s.setting1 & 4;
        ordinary_threshold = threshold > Real(1e-30) && threshold < Real(1e30);
    }

    __device__ __forceinline__ bool& ordinary() { return ordinary_threshold; }

    // For gradients, where rounding in the last place does not matter.
    __device__ __forceinline__ Real over_threshold(Real value) const {
        return ordinary_threshold ? value * inverse_threshold : value / threshold;
    }

    // 1 where membrane / threshold - 1 > 0. For a positive threshold the rounded quotient exceeds 1 exactly
    // where the membrane exceeds the threshold, so there is nothing to divide.
    __device__ __forceinline__ Real spike(Real membrane) const {
        if (ordinary_threshold) return membrane != membrane ? membrane : Real(membrane > threshold);
        const Real u = membrane / threshold - Real(1);
        return u != u ? u : Real(u > 0);
    }

    __device__ __forceinline__ Real step(const Real* x, Real* state, Trace& trace) const {
        trace.before = state[0];
        trace.membrane = leak * state[0] + x[0];
        const Real y = spike(trace.membrane);
        state[0] = no_reset || (to_zero && !(y > 0)) ? trace.membrane
                   : to_zero                         ? Real(0)
                                                     : trace.membrane - threshold * y;
        return y;
    }

    // The surrogate gradient of height 1.
    __device__ __forceinline__ Real surrogate(Real u) const {
        if (tail) return reciprocal(Real(1) + u * u);
        const Real triangle = Real(1) - magnitude(u);
        return triangle < 0 ? Real(0) : triangle;
    }

    __device__ __forceinline__ void backward(const Trace& trace, Real gradient_y, Real* gradient_x,
                                             Real* gradient_state, Real* gradient_parameters) const {
        const Real ratio = over_threshold(trace.membrane);
        const Real gradient_u = over_threshold(gradient_y * gamma * surrogate(ratio - Real(1)));
        const Real y = spike(trace.membrane);
        gradient_parameters[1] -= (to_zero || no_reset ? Real(0) : gradient_state[0] * y) + gradient_u * ratio;
        gradient_x[0] = (to_zero && y > 0 ? Real(0) : gradient_state[0]) + gradient_u;
        gradient_parameters[0] += gradient_x[0] * trace.before;
        gradient_state[0] = gradient_x[0] * leak;
    }

    __device__ __forceinline__ Real membrane(const Trace& trace) const { return trace.membrane; }
};

template <class Real>
struct Integrator {
    enum { INPUTS = 1, STATES = 1, PARAMETERS = 0 };
    bool always = true;

    struct Trace {};

    __device__ __forceinline__ Integrator(const Settings&) {}

    __device__ __forceinline__ bool& ordinary() { return always; }

    __device__ __forceinline__ Real step(const Real* x, Real* state, Trace&) const { return state[0] += x[0]; }

    __device__ __forceinline__ void backward(const Trace&, Real gradient_y, Real* gradient_x, Real* gradient_state,
                                             Real*) const {
        gradient_x[0] = gradient_state[0] += gradient_y;
    }

    __device__ __forceinline__ Real membrane(const Trace&) const { return Real(0); }
};

template <class Real>
struct LeakyIntegrator {
    enum { INPUTS = 1, STATES = 1, PARAMETERS = 1 };
    Real leak;
    bool always = true;

    struct Trace {
        Real before;
    };

    __device__ __forceinline__ LeakyIntegrator(const Settings& s) { leak = ((const Real*)s.parameter0)[s.channel0]; }

    __device__ __forceinline__ bool& ordinary() { return always; }

    __device__ __forceinline__ Real step(const Real* x, Real* state, Trace& trace) const {
        trace.before = state[0];
        return state[0] = leak * state[0] + x[0];
    }

    __device__ __forceinline__ void backward(const Trace& trace, Real gradient_y, Real* gradient_x,
                                             Real* gradient_state, Real* gradient_parameters) const {
        gradient_x[0] = gradient_state[0] + gradient_y;
        gradient_parameters[0] += gradient_x[0] * trace.before;
        gradient_state[0] = gradient_x[0] * leak;
    }

    __device__ __forceinline__ Real membrane(const Trace&) const { return Real(0); }
};

template <class Real>
struct MultiBitLIF {
    enum { INPUTS = 1, STATES = 1, PARAMETERS = 1 };
    Real leak;
    MultiBitSpike<Real> spike;

    struct Trace {
        Real membrane, before;
    };

    __device__ __forceinline__ MultiBitLIF(const Settings& s)
        : spike((const Real*)s.range, (Index)s.setting0, (Index)s.setting1) {
        leak = ((const Real*)s.parameter0)[s.channel0];
    }

    __device__ __forceinline__ bool& ordinary() { return spike.ordinary; }

    __device__ __forceinline__ Real step(const Real* x, Real* state, Trace& trace) const {
        trace.before = state[0];
        trace.membrane = leak * state[0] + x[0];
        const Real y = spike(trace.membrane);
        state[0] = trace.membrane - y;
        return y;
    }

    __device__ __forceinline__ void backward(const Trace& trace, Real gradient_y, Real* gradient_x,
                                             Real* gradient_state, Real* gradient_parameters) const {
        gradient_x[0] = gradient_state[0] + spike.backward(trace.membrane, gradient_y - gradient_state[0]);
        gradient_parameters[0] += gradient_x[0] * trace.before;
        gradient_state[0] = gradient_x[0] * leak;
    }

    __device__ __forceinline__ Real membrane(const Trace& trace) const { return trace.membrane; }
};

template <class Real>
struct MultiBitSynapticLIF {
    enum { INPUTS = 1, STATES = 2, PARAMETERS = 1 };
    Real tau;
    MultiBitSpike<Real> spike;

    struct Trace {
        Real membrane, current_before;
    };

    __device__ __forceinline__ MultiBitSynapticLIF(const Settings& s)
        : spike((const Real*)s.range, (Index)s.setting0, (Index)s.setting1) {
        tau = ((const Real*)s.parameter0)[s.channel0];
    }

    __device__ __forceinline__ bool& ordinary() { return spike.ordinary; }

    __device__ __forceinline__ Real step(const Real* x, Real* state, Trace& trace) const {
        trace.current_before = state[0];
        state[0] = tau * state[0] + x[0];
        trace.membrane = state[1] + state[0];
        const Real y = spike(trace.membrane);
        state[1] = trace.membrane - y;
        return y;
    }

    __device__ __forceinline__ void backward(const Trace& trace, Real gradient_y, Real* gradient_x,
                                             Real* gradient_state, Real* gradient_parameters) const {
        gradient_state[1] += spike.backward(trace.membrane, gradient_y - gradient_state[1]);
        gradient_x[0] = gradient_state[0] + gradient_state[1];
        gradient_parameters[0] += gradient_x[0] * trace.current_before;
        gradient_state[0] = gradient_x[0] * tau;
    }

    __device__ __forceinline__ Real membrane(const Trace& trace) const { return trace.membrane; }
};

template <class Real>
struct InputGatedLIF {
    enum { INPUTS = 2, STATES = 2, PARAMETERS = 0 };
    MultiBitSpike<Real> spike;

    struct Trace {
        Real membrane, current_before, gate, candidate;
    };

    __device__ __forceinline__ InputGatedLIF(const Settings& s)
        : spike((const Real*)s.range, (Index)s.setting0, (Index)s.setting1) {}

    __device__ __forceinline__ bool& ordinary() { return spike.ordinary; }

    __device__ __forceinline__ Trace trace(const Real* x, Real current_before, Real membrane) const {
        return {membrane, current_before, sigmoid(x[0]), upper(x[1], Real(0))};
    }

    __device__ __forceinline__ Real step(const Real* x, Real* state, Trace& trace) const {
        trace = this->trace(x, state[0], Real(0));
        state[0] = trace.gate * state[0] + (Real(1) - trace.gate) * trace.candidate;
        trace.membrane = state[1] + state[0];
        const Real y = spike(trace.membrane);
        state[1] = trace.membrane - y;
        return y;
    }

    __device__ __forceinline__ void backward(const Trace& trace, Real gradient_y, Real* gradient_x,
                                             Real* gradient_state, Real*) const {
        gradient_state[1] += spike.backward(trace.membrane, gradient_y - gradient_state[1]);
        const Real gradient_current = gradient_state[0] + gradient_state[1];
        const Real gradient_gate = gradient_current * trace.current_before - gradient_current * trace.candidate;
        gradient_x[0] = gradient_gate * (Real(1) - trace.gate) * trace.gate;
        gradient_x[1] = trace.candidate <= 0 ? Real(0) : gradient_current * (Real(1) - trace.gate);
        gradient_state[0] = gradient_current * trace.gate;
    }

    __device__ __forceinline__ Real membrane(const Trace& trace) const { return trace.membrane; }
};

// ---- The scans ----

struct Element {  // one element of [B, C, S]: its place in one time step of x, and its channel
    Index x, channel;

    __device__ __forceinline__ Element(Index element, Index channels, Index inner, int inputs) {
        const Index plane = channels * inner;
        x = element + element / plane * (plane * (inputs - 1));
        channel = element / inner % channels;
    }

    __device__ __forceinline__ Settings settings(const void* parameter0, const void* parameter1, const void* range,
                                                 Index per_channel0, Index per_channel1, double setting0,
                                                 double setting1) const {
        const Index channel0 = per_channel0 ? channel : 0, channel1 = per_channel1 ? channel : 0;
        return {parameter0, parameter1, range, channel0, channel1, setting0, setting1};
    }
};

template <class Real>
__device__ __forceinline__ void over_warp(Real& minimum, Real& maximum) {
#pragma unroll
    for (int distance = WARP / 2; distance; distance /= 2) {
        minimum = lower(minimum, __shfl_xor_sync(~0u, minimum, distance));
        maximum = upper(maximum, __shfl_xor_sync(~0u, maximum, distance));
    }
}

// The kernels' arguments. Parameters are one per layer, or one per channel if per_channel is not zero.
#define FORWARD_PARAMETERS(Scalar)                                                                                 \
    const Scalar *__restrict__ x, const void *state0, const void *state1, const void *parameter0,                  \
        const void *parameter1, const void *range, Scalar *__restrict__ y, void *final0, void *final1,             \
        void *checkpoints, void *partial_extremes, Index steps, Index elements, Index channels, Index inner,       \
        Index per_channel0, Index per_channel1, double setting0, double setting1
#define FORWARD_ARGUMENTS                                                                                          \
    x, state0, state1, parameter0, parameter1, range, y, final0, final1, checkpoints, partial_extremes, steps,     \
        elements, channels, inner, per_channel0, per_channel1, setting0, setting1
#define BACKWARD_PARAMETERS(Scalar)                                                                                \
    const Scalar *__restrict__ x, const void *__restrict__ checkpoints, const void *parameter0,                    \
        const void *parameter1, const void *range, const Scalar *__restrict__ gradient_y,                          \
        const void *gradient_final0, const void *gradient_final1, Scalar *__restrict__ gradient_x,                 \
        void *gradient_state0, void *gradient_state1, void *gradient_parameters, Index steps, Index elements,      \
        Index channels, Index inner, Index per_channel0, Index per_channel1, double setting0, double setting1
#define BACKWARD_ARGUMENTS                                                                                         \
    x, checkpoints, parameter0, parameter1, range, gradient_y, gradient_final0, gradient_final1, gradient_x,       \
        gradient_state0, gradient_state1, gradient_parameters, steps, elements, channels, inner, per_channel0,     \
        per_channel1, setting0, setting1

// The forward scan of one element: STEPS loads are always in flight; a slot is refilled as soon as its step is taken.
template <class Neuron, class Scalar, class Real, bool TRACK>
struct Forward {
    enum { INPUTS = Neuron::INPUTS, STATES = Neuron::STATES };
    const Scalar* __restrict__ next;
    Scalar* __restrict__ y;
    Index plane, elements;
    Scalar ahead[STEPS][INPUTS];
    Real state[STATES], minimum, maximum, last;

    __device__ __forceinline__ void load_slot(int slot) {
#pragma unroll
        for (int i = 0; i < INPUTS; i++) ahead[slot][i] = next[i * plane];
    }

    __device__ __forceinline__ void fill(Index steps) {
#pragma unroll
        for (int i = 0; i < STEPS; i++, next += elements * INPUTS) {
            if (i < steps) load_slot(i);
        }
    }

    // Takes the next STEPS steps, or as many as are left; without GUARDED at least 2 * STEPS must be left.
    template <bool GUARDED>
    __device__ __forceinline__ void take(const Neuron& neuron, Index left) {
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            if (GUARDED && i >= left) break;
            Real x[INPUTS];
#pragma unroll
            for (int j = 0; j < INPUTS; j++) x[j] = widen(ahead[i][j]);
            if (!GUARDED || i + STEPS < left) load_slot(i);
            next += elements * INPUTS;
            typename Neuron::Trace trace;
            *y = narrow<Scalar>(neuron.step(x, state, trace));
            y += elements;
            if (TRACK) {
                last = neuron.membrane(trace);
                minimum = least(minimum, last);
                maximum = most(maximum, last);
            }
        }
    }

    // ORDINARY: the neuron is ordinary; a copy of the loop without a test in every step is worth its size.
    template <bool ORDINARY>
    __device__ __forceinline__ void run(const Neuron& neuron, Index steps, Real* checkpoint) {
        fill(steps);
        for (Index left = steps; left > 0; left -= STEPS) {
            if (checkpoint) {
#pragma unroll
                for (int i = 0; i < STATES; i++, checkpoint += elements) *checkpoint = state[i];
            }
            if (ORDINARY && left >= 2 * STEPS) {
                take<false>(neuron, left);
            } else {
                take<true>(neuron, left);
            }
        }
    }
};

// state0, state1 [B, C, S] are input, final0, final1 output. checkpoints [ceil(T / STEPS), states, B, C, S] receives
// the state before every STEPS-th step, unless it is null. With TRACK, partial_extremes [warps, 2] receives the
// smallest and the largest membrane before the spike that each warp saw, NaN if it saw any.
template <template <class> class NeuronOf, class Scalar, bool TRACK>
__device__ __forceinline__ void forward(FORWARD_PARAMETERS(Scalar)) {
    typedef typename StateOf<Scalar>::type Real;
    typedef NeuronOf<Real> Neuron;
    Real minimum = infinity<Real>(), maximum = -infinity<Real>(), nan = 0;

    for (Index e = (Index)blockIdx.x * blockDim.x + threadIdx.x; e < elements; e += (Index)gridDim.x * blockDim.x) {
        const Element element(e, channels, inner, Neuron::INPUTS);
        Neuron neuron(element.settings(parameter0, parameter1, range, per_channel0, per_channel1, setting0, setting1));
        Forward<Neuron, Scalar, Real, TRACK> scan = {x + element.x, y + e, channels * inner, elements};
        scan.minimum = minimum;
        scan.maximum = maximum;
        scan.last = 0;
        scan.state[0] = ((const Real*)state0)[e];
        if (Neuron::STATES > 1) scan.state[Neuron::STATES - 1] = ((const Real*)state1)[e];
        Real* checkpoint = checkpoints ? (Real*)checkpoints + e : 0;
        if (neuron.ordinary()) {
            neuron.ordinary() = true;
            scan.template run<true>(neuron, steps, checkpoint);
        } else {
            scan.template run<false>(neuron, steps, checkpoint);
        }
        ((Real*)final0)[e] = scan.state[0];
        if (Neuron::STATES > 1) ((Real*)final1)[e] = scan.state[Neuron::STATES - 1];
        minimum = scan.minimum;
        maximum = scan.maximum;
        nan = scan.last != scan.last ? scan.last : nan;  // once NaN, a membrane stays NaN to the last step
    }
    if (TRACK) {
        minimum = nan != nan ? nan : minimum;
        maximum = nan != nan ? nan : maximum;
        over_warp(minimum, maximum);
        const Index thread = (Index)blockIdx.x * blockDim.x + threadIdx.x;
        if (thread % WARP == 0) {
            ((Real*)partial_extremes)[thread / WARP * 2] = minimum;
            ((Real*)partial_extremes)[thread / WARP * 2 + 1] = maximum;
        }
    }
}

// One block reduces [count, 2] partial extremes to the overall extremes [2].
template <class Real>
__device__ __forceinline__ void gather_extremes(const void* partial_extremes, void* extremes, Index count) {
    __shared__ Real minima[32], maxima[32];
    Real minimum = infinity<Real>(), maximum = -infinity<Real>();
    for (Index i = threadIdx.x; i < count; i += blockDim.x) {
        minimum = lower(minimum, ((const Real*)partial_extremes)[i * 2]);
        maximum = upper(maximum, ((const Real*)partial_extremes)[i * 2 + 1]);
    }
    over_warp(minimum, maximum);
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (lane == 0) {
        minima[warp] = minimum;
        maxima[warp] = maximum;
    }
    __syncthreads();
    if (warp == 0) {
        for (int i = lane; i < warps; i += WARP) {
            minimum = lower(minimum, minima[i]);
            maximum = upper(maximum, maxima[i]);
        }
        over_warp(minimum, maximum);
        if (lane == 0) {
            ((Real*)extremes)[0] = minimum;
            ((Real*)extremes)[1] = maximum;
        }
    }
}

// The backward scan of one element, from the last STEPS steps to the first. It runs them forward from their checkpoint,
// with the traces in registers, then back, while the loads of the preceding STEPS are in flight.
template <class Neuron, class Scalar, class Real>
struct Backward {
    enum { INPUTS = Neuron::INPUTS, STATES = Neuron::STATES };
    const Scalar* __restrict__ x;  // this and the next three point to the start of the current steps
    const Scalar* __restrict__ gradient_y;
    const Real* __restrict__ checkpoint;
    Scalar* __restrict__ gradient_x;
    Index plane, elements;
    Scalar ahead[STEPS][INPUTS], gradient_ahead[STEPS];
    Real state[STATES], gradient_state[STATES], gradient_parameter[Neuron::PARAMETERS + 1];

    template <bool GUARDED>
    __device__ __forceinline__ void load_all(Index left) {
#pragma unroll
        for (int i = 0; i < STATES; i++) state[i] = checkpoint[i * elements];
        const Scalar *x_from = x, *gradient_from = gradient_y;
#pragma unroll
        for (int i = 0; i < STEPS; i++, x_from += elements * INPUTS, gradient_from += elements) {
            if (GUARDED && i >= left) break;
#pragma unroll
            for (int j = 0; j < INPUTS; j++) ahead[i][j] = x_from[j * plane];
            gradient_ahead[i] = *gradient_from;
        }
    }

    // Takes the current steps: STEPS of them, or with GUARDED as many as left. more: there are steps before them.
    template <bool GUARDED>
    __device__ __forceinline__ void take(const Neuron& neuron, Index left, bool more) {
        typename Neuron::Trace traces[STEPS];
        Real gradients[STEPS];
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            if (GUARDED && i >= left) break;
            Real inputs[INPUTS];
#pragma unroll
            for (int j = 0; j < INPUTS; j++) inputs[j] = widen(ahead[i][j]);
            neuron.step(inputs, state, traces[i]);
            gradients[i] = widen(gradient_ahead[i]);
        }
        Scalar* out = gradient_x + (STEPS - 1) * elements * INPUTS;
        gradient_x -= STEPS * elements * INPUTS;
        if (more) {
            x -= STEPS * elements * INPUTS;
            gradient_y -= STEPS * elements;
            checkpoint -= STATES * elements;
            load_all<false>(STEPS);
        }
#pragma unroll
        for (int i = STEPS - 1; i >= 0; i--, out -= elements * INPUTS) {
            if (GUARDED && i >= left) continue;
            Real gradient_inputs[INPUTS];
            neuron.backward(traces[i], gradients[i], gradient_inputs, gradient_state, gradient_parameter);
#pragma unroll
            for (int j = 0; j < INPUTS; j++) out[j * plane] = narrow<Scalar>(gradient_inputs[j]);
        }
    }

    template <bool ORDINARY>
    __device__ __forceinline__ void run(const Neuron& neuron, Index steps) {
        const Index last = (steps - 1) / STEPS;  // of the checkpoints
        x += last * STEPS * elements * INPUTS;
        gradient_x += last * STEPS * elements * INPUTS;
        gradient_y += last * STEPS * elements;
        checkpoint += last * STATES * elements;
        const Index left = steps - last * STEPS;
        load_all<true>(left);
        take<true>(neuron, left, last > 0);
        for (Index chunk = last; chunk > 0; chunk--) take<!ORDINARY>(neuron, STEPS, chunk > 1);
    }
};

// gradient_final0 and gradient_final1 may be null (zero). gradient_parameters [PARAMETERS, B, C, S] receives each
// element's share of the parameters' gradients. There is at least one step.
template <template <class> class NeuronOf, class Scalar>
__device__ __forceinline__ void backward(BACKWARD_PARAMETERS(Scalar)) {
    typedef typename StateOf<Scalar>::type Real;
    typedef NeuronOf<Real> Neuron;
    enum { STATES = Neuron::STATES };

    for (Index e = (Index)blockIdx.x * blockDim.x + threadIdx.x; e < elements; e += (Index)gridDim.x * blockDim.x) {
        const Element element(e, channels, inner, Neuron::INPUTS);
        Neuron neuron(element.settings(parameter0, parameter1, range, per_channel0, per_channel1, setting0, setting1));
        Backward<Neuron, Scalar, Real> scan = {x + element.x,
                                               gradient_y + e,
                                               (const Real*)checkpoints + e,
                                               gradient_x + element.x,
                                               channels * inner,
                                               elements};
        scan.gradient_state[0] = gradient_final0 ? ((const Real*)gradient_final0)[e] : Real(0);
        if (STATES > 1) {
            scan.gradient_state[STATES - 1] = gradient_final1 ? ((const Real*)gradient_final1)[e] : Real(0);
        }
#pragma unroll
        for (int i = 0; i < Neuron::PARAMETERS; i++) scan.gradient_parameter[i] = 0;
        if (neuron.ordinary()) {
            neuron.ordinary() = true;
            scan.template run<true>(neuron, steps);
        } else {
            scan.template run<false>(neuron, steps);
        }
        ((Real*)gradient_state0)[e] = scan.gradient_state[0];
        if (STATES > 1) ((Real*)gradient_state1)[e] = scan.gradient_state[STATES - 1];
#pragma unroll
        for (int i = 0; i < Neuron::PARAMETERS; i++) {
            ((Real*)gradient_parameters)[i * elements + e] = scan.gradient_parameter[i];
        }
    }
}

// ---- The kernels' entry points ----

#ifdef NEURON
extern "C" {
__global__ void __launch_bounds__(128) scan_forward(FORWARD_PARAMETERS(SCALAR)) {
    forward<NEURON, SCALAR, false>(FORWARD_ARGUMENTS);
}
__global__ void __launch_bounds__(128) scan_forward_tracking(FORWARD_PARAMETERS(SCALAR)) {
    forward<NEURON, SCALAR, true>(FORWARD_ARGUMENTS);
}
__global__ void __launch_bounds__(128) scan_backward(BACKWARD_PARAMETERS(SCALAR)) {
    backward<NEURON, SCALAR>(BACKWARD_ARGUMENTS);
}
}
#endif

#ifdef SCALAR
extern "C" __global__ void __launch_bounds__(1024) extremes(const void* partial_extremes, void* out, Index count) {
    gather_extremes<StateOf<SCALAR>::type>(partial_extremes, out, count);
}
#endif

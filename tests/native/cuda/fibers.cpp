#include "fibers.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "stacks.h"

namespace emulate {
namespace {

constexpr size_t kStack = 256 << 10;
constexpr size_t kGuard = 64 << 10;  // below each stack, so that an overflow faults
constexpr int kGarbage = 0xFE;       // a large negative number in every type
constexpr int64_t kMostThreads = 1024;
constexpr size_t kMostShared = 227 << 10;

enum class State { ready, waiting, done };

// A fiber starts on its stack with setcontext and then goes to and fro with _longjmp: swapcontext would set
// the signal mask each time, and those system calls take longer than the kernels.
struct Fiber {
    ucontext_t start = {};
    jmp_buf resume = {};
    bool started = false;
    char* stack = nullptr;
    State state = State::ready;
    dim3 index;
    int number = 0;
    const char* place = nullptr;  // where it waits
    void* fake_stack = nullptr;
};

/// A rendezvous of lanes. Two sides take turns: lanes still read the one while others come to the next.
struct Meeting {
    unsigned mask = 0, arrived = 0, turn = 0;
    const char* what = nullptr;
    Lanes sides[2] = {};
};

struct Block {
    const std::function<void()>* kernel = nullptr;
    std::vector<Fiber*> fibers;
    Fiber* current = nullptr;
    int at_barrier = 0;
    std::map<std::pair<int, unsigned>, Meeting> meetings;  // by warp and mask
    std::vector<void*> fresh;
    unsigned char* shared = nullptr;
    std::exception_ptr error;
};

Block block;
jmp_buf scheduler;
bool refused = false;

[[noreturn]] void fail(const std::string& message) {
    throw std::logic_error("[emulate] " + message);
}

std::string name(const Fiber& fiber) {
    return "thread " + std::to_string(fiber.number) + " of block (" + std::to_string(blockIdx.x) + ", " +
           std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + ")";
}

void wait_at(const char* place) {
    Fiber& self = *block.current;
    self.state = State::waiting;
    self.place = place;
    leave_for(&self.fake_stack, scheduler_stack, scheduler_bytes);
    if (_setjmp(self.resume) == 0) _longjmp(scheduler, 1);
    arrived_in_fiber(self.fake_stack);
}

unsigned running_lanes(int warp) {
    unsigned running = 0;
    for (int lane = 0; lane < warpSize; ++lane) {
        const size_t number = static_cast<size_t>(warp * warpSize + lane);
        if (number < block.fibers.size() && block.fibers[number]->state != State::done) running |= 1u << lane;
    }
    return running;
}

/// Lets the lanes of a meeting go once all that can still come are there.
bool completed(int warp, Meeting& meeting) {
    if (meeting.arrived == 0 || (meeting.mask & running_lanes(warp)) != meeting.arrived) return false;
    meeting.sides[meeting.turn & 1].present = meeting.arrived;
    for (int lane = 0; lane < warpSize; ++lane)
        if (meeting.arrived >> lane & 1)
            block.fibers[static_cast<size_t>(warp * warpSize + lane)]->state = State::ready;
    meeting.arrived = 0;
    ++meeting.turn;
    return true;
}

void run_thread() {
    arrived_in_fiber(nullptr);
    Fiber& self = *block.current;
    try {
        (*block.kernel)();
    } catch (...) {
        block.error = std::current_exception();
    }
    self.state = State::done;
    const int warp = self.number / warpSize;
    for (auto& [key, meeting] : block.meetings)
        if (key.first == warp) completed(warp, meeting);
    leave_for(nullptr, scheduler_stack, scheduler_bytes);
    _longjmp(scheduler, 1);
}

void resume(Fiber& fiber) {
    block.current = &fiber;
    threadIdx = fiber.index;
    void* fake = nullptr;
    leave_for(&fake, fiber.stack, kStack);
    if (_setjmp(scheduler) == 0) {
        if (fiber.started) _longjmp(fiber.resume, 1);
        fiber.started = true;
        setcontext(&fiber.start);
    }
    arrived_in_scheduler(fake);
}

/// A fiber at the start of the kernel; fibers and their stacks are used again by later blocks.
Fiber* new_thread(size_t number) {
    static std::vector<std::unique_ptr<Fiber>> pool;
    while (pool.size() <= number) {
        void* memory = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) throw std::bad_alloc();
        pool.push_back(std::make_unique<Fiber>());
        pool.back()->stack = static_cast<char*>(memory) + kGuard;
    }
    Fiber* fiber = pool[number].get();
    fiber->state = State::ready;
    fiber->started = false;
    fiber->number = static_cast<int>(number);
    const unsigned n = static_cast<unsigned>(number);
    fiber->index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
    getcontext(&fiber->start);
    fiber->start.uc_stack.ss_sp = fiber->stack;
    fiber->start.uc_stack.ss_size = kStack;
    fiber->start.uc_link = nullptr;
    makecontext(&fiber->start, run_thread, 0);
    return fiber;
}

/// 0 .. count - 1 in the order that is asked for.
std::vector<size_t> turns(size_t count) {
    static std::mt19937 random(0);
    std::vector<size_t> result(count);
    std::iota(result.begin(), result.end(), size_t{0});
    if (order == Order::backward) std::reverse(result.begin(), result.end());
    if (order == Order::shuffled) std::shuffle(result.begin(), result.end(), random);
    return result;
}

[[noreturn]] void report_deadlock() {
    std::map<std::string, std::pair<int, const Fiber*>> places;
    for (const Fiber* fiber : block.fibers) {
        auto& [count, first] = places[fiber->state == State::done ? "the end" : fiber->place];
        if (count++ == 0) first = fiber;
    }
    std::string message = "the threads of a block wait for each other:";
    for (const auto& [place, who] : places)
        message +=
            "\n    " + std::to_string(who.first) + " at " + place + ", the first is " + name(*who.second);
    fail(message);
}

void run_block(const Config& config, const std::function<void()>& kernel) {
    // Exactly as long as asked for: AddressSanitizer then sees what goes past its end.
    constexpr std::align_val_t kAligned{128};
    const std::unique_ptr<unsigned char, void (*)(unsigned char*)> shared(
        static_cast<unsigned char*>(::operator new(config.shared, kAligned)),
        [](unsigned char* memory) { ::operator delete(memory, kAligned); });
    std::memset(shared.get(), kGarbage, config.shared);
    block = {};
    block.kernel = &kernel;
    block.shared = shared.get();
    const size_t count = static_cast<size_t>(config.block.count());
    for (size_t number = 0; number < count; ++number) block.fibers.push_back(new_thread(number));
    for (bool moved = true; moved;) {
        moved = false;
        for (const size_t number : turns(count)) {
            if (block.fibers[number]->state != State::ready) continue;
            moved = true;
            resume(*block.fibers[number]);
            if (block.error) std::rethrow_exception(block.error);
        }
    }
    for (const Fiber* fiber : block.fibers)
        if (fiber->state != State::done) report_deadlock();
}

}  // namespace

void run(const Config& config, const std::function<void()>& kernel) {
    const bool bad = config.grid.count() == 0 || config.block.count() == 0 ||
                     config.block.count() > kMostThreads || config.grid.x > 0x7fffffffu ||
                     config.grid.y > 65535 || config.grid.z > 65535 || config.block.z > 64 ||
                     config.shared > kMostShared;
    refused = refused || bad;
    if (bad) return;
    gridDim = config.grid;
    blockDim = config.block;
    for (const size_t number : turns(static_cast<size_t>(config.grid.count()))) {
        const size_t row = number / config.grid.x;
        blockIdx =
            dim3(static_cast<unsigned>(number % config.grid.x), static_cast<unsigned>(row % config.grid.y),
                 static_cast<unsigned>(row / config.grid.y));
        run_block(config, kernel);
    }
}

bool take_refusal() {
    return std::exchange(refused, false);
}

void sync_threads(const char* place) {
    if (++block.at_barrier < static_cast<int>(block.fibers.size())) {
        wait_at(place);
        return;
    }
    for (Fiber* fiber : block.fibers) {
        if (fiber != block.current && std::strcmp(fiber->place, place) != 0)
            fail(name(*fiber) + " waits at " + fiber->place + " but " + name(*block.current) + " at " +
                 place);
        fiber->state = State::ready;
    }
    block.at_barrier = 0;
}

int lane() {
    return block.current->number % warpSize;
}

const Lanes& meet(unsigned mask, const char* what, const void* value, size_t bytes) {
    const Fiber& self = *block.current;
    const unsigned bit = 1u << lane();
    const int warp = self.number / warpSize;
    if ((mask & bit) == 0) fail(name(self) + " is not in the mask of its " + what);
    Meeting& meeting = block.meetings[{warp, mask}];
    Lanes& side = meeting.sides[meeting.turn & 1];
    if (meeting.arrived == 0) {
        meeting.mask = mask;
        meeting.what = what;
        std::memset(side.values, kGarbage, sizeof side.values);
    } else if (std::strcmp(meeting.what, what) != 0) {
        fail(name(self) + " comes to " + what + " while its warp is at " + meeting.what);
    }
    meeting.arrived |= bit;
    if (bytes > 0) std::memcpy(side.values[lane()], value, bytes);
    if (!completed(warp, meeting)) wait_at(what);
    return side;
}

void* dynamic_shared() {
    return block.shared;
}

void fresh(void* variable, size_t bytes) {
    if (std::find(block.fresh.begin(), block.fresh.end(), variable) != block.fresh.end()) return;
    block.fresh.push_back(variable);
    std::memset(variable, kGarbage, bytes);
}

}  // namespace emulate

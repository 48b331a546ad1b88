/* Shows another time than it is to a process that is started with LD_PRELOAD=this. What waits in it, by the monotonic clock, waits as long as ever.
 *
 * WRONG_CLOCK holds three whole numbers: the time that is shown, Unix milliseconds; the right time of that moment; and how much faster
 * than time it goes on. Nothing here takes memory: the clock is asked before the allocator of the program stands. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long shown_ms, right_ms, rate;

__attribute__((constructor)) static void read_wrong_clock(void) {
    char *text = getenv("WRONG_CLOCK");
    if (!text) return;
    shown_ms = strtoll(text, &text, 10);
    right_ms = strtoll(text, &text, 10);
    rate = strtoll(text, &text, 10);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int answer = (int)syscall(SYS_clock_gettime, clock, at);
    if (answer == 0 && rate && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        long long passed_ns = (at->tv_sec * 1000LL - right_ms) * 1000000 + at->tv_nsec;
        long long shown_ns = passed_ns * rate + shown_ms % 1000 * 1000000;
        at->tv_sec = shown_ms / 1000 + shown_ns / 1000000000;
        at->tv_nsec = shown_ns % 1000000000;
        if (at->tv_nsec < 0) {
            at->tv_nsec += 1000000000;
            at->tv_sec -= 1;
        }
    }
    return answer;
}

// Counts the instructions of the guest's only CPU by exception level, by the guest's own performance counters.
//
// Reads a line, answers `USER KERNEL HYPERVISOR` since the start, and again until its input ends. No C library: three
// system calls are all that it needs. Source of the numbers: perf_event_open(2), and the arm64 system call table.

typedef unsigned long u64;
typedef unsigned int u32;

enum { READ = 63, WRITE = 64, EXIT = 93, PERF_EVENT_OPEN = 241 };
enum { TYPE_HARDWARE = 0, INSTRUCTIONS = 1, SIZE_VERSION_0 = 64 };
enum { PINNED = 1 << 2, NO_USER = 1 << 4, NO_KERNEL = 1 << 5, NO_HYPERVISOR = 1 << 6 };

static long call(long number, long a, long b, long c, long d, long e)
{
    register long x8 asm("x8") = number;
    register long x0 asm("x0") = a;
    register long x1 asm("x1") = b;
    register long x2 asm("x2") = c;
    register long x3 asm("x3") = d;
    register long x4 asm("x4") = e;
    asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}

static void fail(long code)
{
    for (;;)
        call(EXIT, code, 0, 0, 0, 0);
}

static long counter(u64 excluded)
{
    struct {
        u32 type, size;
        u64 config, period, sample, format, flags, rest[2];
    } event = { TYPE_HARDWARE, SIZE_VERSION_0, INSTRUCTIONS, 0, 0, 0, PINNED | excluded, { 0, 0 } };
    long file = call(PERF_EVENT_OPEN, (long)&event, -1, 0, -1, 0);
    if (file < 0)
        fail(2);
    return file;
}

static u64 value(long file)
{
    u64 count = 0;
    if (call(READ, file, (long)&count, sizeof count, 0, 0) != sizeof count)
        fail(3);
    return count;
}

static char *decimal(char *end, u64 number)
{
    do
        *--end = '0' + number % 10;
    while (number /= 10);
    return end;
}

void _start(void)
{
    long user = counter(NO_KERNEL | NO_HYPERVISOR);
    long kernel = counter(NO_USER | NO_HYPERVISOR);
    // The kernel counts EL2 only together with itself.
    long kernel_and_hypervisor = counter(NO_USER);
    char line[64];
    while (call(READ, 0, (long)line, sizeof line, 0, 0) > 0) {
        char answer[80], *end = answer + sizeof answer, *at = end;
        u64 both = value(kernel_and_hypervisor), one = value(kernel);
        *--at = '\n';
        at = decimal(at, both - one);
        *--at = ' ';
        at = decimal(at, one);
        *--at = ' ';
        at = decimal(at, value(user));
        call(WRITE, 1, (long)at, end - at, 0, 0);
    }
    fail(0);
}

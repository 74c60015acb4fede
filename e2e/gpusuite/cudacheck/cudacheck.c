// cudacheck drives one card through the driver's own library, so that it needs no CUDA
// toolkit to be built or to run: its kernels are PTX, which the driver compiles. Each
// command prints one line of JSON and ends with 0 if the card did as it should, with 2 if
// it ran out of memory, with 1 else.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long ptr;

enum { OUT_OF_MEMORY = 2, ILLEGAL_ADDRESS = 700 };

static int (*init)(unsigned);
static int (*deviceGet)(int *, int);
static int (*deviceGetName)(char *, int, int);
static int (*deviceTotalMem)(size_t *, int);
static int (*deviceGetCount)(int *);
static int (*retain)(void **, int);
static int (*setCurrent)(void *);
static int (*synchronize)(void);
static int (*memAlloc)(ptr *, size_t);
static int (*memFree)(ptr);
static int (*toDevice)(ptr, const void *, size_t);
static int (*toHost)(void *, ptr, size_t);
static int (*onDevice)(ptr, ptr, size_t);
static int (*memset8)(ptr, unsigned char, size_t);
static int (*moduleLoad)(void **, const void *);
static int (*getFunction)(void **, void *, const char *);
static int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
// These came with driver 570.
static int (*lock)(int, void *), (*checkpoint)(int, void *), (*restore)(int, void *), (*unlock)(int, void *);

static const struct { void *to; const char *name; int needed; } symbols[] = {
	{&init, "cuInit", 1}, {&deviceGet, "cuDeviceGet", 1}, {&deviceGetName, "cuDeviceGetName", 1},
	{&deviceTotalMem, "cuDeviceTotalMem_v2", 1}, {&deviceGetCount, "cuDeviceGetCount", 1},
	{&retain, "cuDevicePrimaryCtxRetain", 1}, {&setCurrent, "cuCtxSetCurrent", 1}, {&synchronize, "cuCtxSynchronize", 1},
	{&memAlloc, "cuMemAlloc_v2", 1}, {&memFree, "cuMemFree_v2", 1}, {&toDevice, "cuMemcpyHtoD_v2", 1},
	{&toHost, "cuMemcpyDtoH_v2", 1}, {&onDevice, "cuMemcpyDtoD_v2", 1}, {&memset8, "cuMemsetD8_v2", 1},
	{&moduleLoad, "cuModuleLoadData", 1}, {&getFunction, "cuModuleGetFunction", 1}, {&launch, "cuLaunchKernel", 1},
	{&lock, "cuCheckpointProcessLock", 0}, {&checkpoint, "cuCheckpointProcessCheckpoint", 0},
	{&restore, "cuCheckpointProcessRestore", 0}, {&unlock, "cuCheckpointProcessUnlock", 0},
};

static const char vectors[] =
	".version 6.0\n.target sm_50\n.address_size 64\n"
	".visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n) {\n"
	" .reg .pred %p<2>; .reg .f32 %f<4>; .reg .b32 %r<6>; .reg .b64 %d<8>;\n"
	" mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.u32 %r4, %r2, %r3, %r1;\n"
	" ld.param.u32 %r5, [n]; setp.ge.u32 %p1, %r4, %r5; @%p1 bra done;\n"
	" mul.wide.u32 %d1, %r4, 4;\n"
	" ld.param.u64 %d2, [a]; cvta.to.global.u64 %d2, %d2; add.u64 %d2, %d2, %d1; ld.global.f32 %f1, [%d2];\n"
	" ld.param.u64 %d3, [b]; cvta.to.global.u64 %d3, %d3; add.u64 %d3, %d3, %d1; ld.global.f32 %f2, [%d3];\n"
	" add.f32 %f3, %f1, %f2;\n"
	" ld.param.u64 %d4, [c]; cvta.to.global.u64 %d4, %d4; add.u64 %d4, %d4, %d1; st.global.f32 [%d4], %f3;\n"
	"done: ret;\n}\n"
	".visible .entry bad() {\n"
	" .reg .b64 %d<2>; .reg .b32 %r<2>;\n"
	" mov.u64 %d1, 16; mov.u32 %r1, 1; st.global.u32 [%d1], %r1; ret;\n}\n";

static const char tensor[] =
	".version 7.0\n.target sm_80\n.address_size 64\n"
	".visible .entry mma(.param .u64 out, .param .u32 n) {\n"
	" .reg .pred %p<2>; .reg .f32 %f<4>; .reg .b32 %r<9>; .reg .b64 %d<2>;\n"
	" mov.b32 %r0, 0x3f803f80; mov.b32 %r1, %r0; mov.b32 %r2, %r0; mov.b32 %r3, %r0; mov.b32 %r4, %r0; mov.b32 %r5, %r0;\n"
	" mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;\n"
	" ld.param.u32 %r6, [n];\n"
	"again:\n"
	" mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f0,%f1,%f2,%f3};\n"
	" sub.u32 %r6, %r6, 1; setp.ne.u32 %p1, %r6, 0; @%p1 bra again;\n"
	" ld.param.u64 %d1, [out]; cvta.to.global.u64 %d1, %d1; st.global.f32 [%d1], %f0; ret;\n}\n";

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void must(int code, const char *what)
{
	if (!code)
		return;
	printf("{\"failed\":\"%s\",\"code\":%d}\n", what, code);
	fflush(stdout);
	_exit(code == OUT_OF_MEMORY ? 2 : 1);
}

static void load(void)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW);
	if (!library) {
		printf("{\"failed\":\"dlopen\",\"message\":\"libcuda.so.1 is not there\"}\n");
		exit(1);
	}
	for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
		void *f = dlsym(library, symbols[i].name);
		must(!f && symbols[i].needed, symbols[i].name);
		*(void **)symbols[i].to = f;
	}
}

// open makes the first card's context current and returns how long that took.
static double open_card(char *name, size_t *total)
{
	double began = now();
	int device;
	void *context;
	must(init(0), "cuInit");
	must(deviceGet(&device, 0), "cuDeviceGet");
	must(deviceGetName(name, 100, device), "cuDeviceGetName");
	must(deviceTotalMem(total, device), "cuDeviceTotalMem");
	must(retain(&context, device), "cuDevicePrimaryCtxRetain");
	must(setCurrent(context), "cuCtxSetCurrent");
	return now() - began;
}

static void *function(const char *text, const char *name)
{
	void *module, *f;
	must(moduleLoad(&module, text), "cuModuleLoadData");
	must(getFunction(&f, module, name), "cuModuleGetFunction");
	return f;
}

static int add(const char *name, size_t total, double opened)
{
	uint32_t n = 1 << 24;
	size_t bytes = n * sizeof(float);
	float *x = malloc(bytes), *y = malloc(bytes);
	ptr a, b, c;
	must(!x || !y, "malloc");
	for (uint32_t i = 0; i < n; i++)
		x[i] = i & 0xffff, y[i] = 2 * (i & 0xffff);
	must(memAlloc(&a, bytes), "cuMemAlloc");
	must(memAlloc(&b, bytes), "cuMemAlloc");
	must(memAlloc(&c, bytes), "cuMemAlloc");
	must(toDevice(a, x, bytes), "cuMemcpyHtoD");
	must(toDevice(b, y, bytes), "cuMemcpyHtoD");
	void *args[] = {&a, &b, &c, &n};
	must(launch(function(vectors, "add"), n / 256, 1, 1, 256, 1, 1, 0, 0, args, 0), "cuLaunchKernel");
	must(toHost(x, c, bytes), "cuMemcpyDtoH");
	for (uint32_t i = 0; i < n; i++)
		must(x[i] != 3 * (float)(i & 0xffff), "sum");
	int count = 0;
	must(deviceGetCount(&count), "cuDeviceGetCount");
	printf("{\"name\":\"%s\",\"totalBytes\":%zu,\"cards\":%d,\"openSeconds\":%.4f}\n", name, total, count, opened);
	return 0;
}

static int hold(size_t bytes, double seconds)
{
	ptr p;
	must(memAlloc(&p, bytes), "cuMemAlloc");
	must(memset8(p, 1, bytes), "cuMemset");
	must(synchronize(), "cuCtxSynchronize");
	printf("{\"holds\":%zu,\"pid\":%d}\n", bytes, (int)getpid());
	fflush(stdout);
	for (double end = now() + seconds; now() < end; usleep(100000))
		;
	unsigned char first = 0;
	must(toHost(&first, p, 1), "cuMemcpyDtoH");
	must(first != 1, "kept");
	return 0;
}

static int busy(const char *how, double seconds)
{
	size_t bytes = 1 << 30;
	ptr a, b;
	must(memAlloc(&a, bytes), "cuMemAlloc");
	must(memAlloc(&b, bytes), "cuMemAlloc");
	uint32_t n = 1 << 18;
	void *args[] = {&a, &n}, *mma = strcmp(how, "tensor") ? 0 : function(tensor, "mma");
	printf("{\"busy\":\"%s\"}\n", how);
	fflush(stdout);
	for (double end = now() + seconds; now() < end;) {
		if (mma)
			must(launch(mma, 1024, 1, 1, 256, 1, 1, 0, 0, args, 0), "cuLaunchKernel");
		else
			must(onDevice(b, a, bytes), "cuMemcpyDtoD");
		must(synchronize(), "cuCtxSynchronize");
	}
	return 0;
}

// bad writes where nothing is mapped; the driver says so with an XID.
static int bad(void)
{
	must(launch(function(vectors, "bad"), 1, 1, 1, 1, 1, 1, 0, 0, 0, 0), "cuLaunchKernel");
	int code = synchronize();
	printf("{\"code\":%d}\n", code);
	return code != ILLEGAL_ADDRESS;
}

// suspend moves another process' memory off the card and back again.
static int suspend(int pid, double seconds)
{
	char zero[128] = {0};
	double at[5];
	must(!lock || !checkpoint || !restore || !unlock, "cuCheckpointProcess*");
	must(init(0), "cuInit");
	at[0] = now(), must(lock(pid, zero), "cuCheckpointProcessLock");
	at[1] = now(), must(checkpoint(pid, zero), "cuCheckpointProcessCheckpoint");
	at[2] = now();
	printf("{\"suspended\":%d,\"lockSeconds\":%.4f,\"checkpointSeconds\":%.4f}\n", pid, at[1] - at[0], at[2] - at[1]);
	fflush(stdout);
	usleep(seconds * 1e6);
	at[2] = now(), must(restore(pid, zero), "cuCheckpointProcessRestore");
	at[3] = now(), must(unlock(pid, zero), "cuCheckpointProcessUnlock");
	at[4] = now();
	printf("{\"restoreSeconds\":%.4f,\"unlockSeconds\":%.4f}\n", at[3] - at[2], at[4] - at[3]);
	return 0;
}

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "add", *a = argc > 2 ? argv[2] : "0", *b = argc > 3 ? argv[3] : "0";
	char name[100];
	size_t total;
	load();
	if (!strcmp(command, "suspend"))
		return suspend(atoi(a), atof(b));
	double opened = open_card(name, &total);
	if (!strcmp(command, "hold"))
		return hold(strtoull(a, 0, 10), atof(b));
	if (!strcmp(command, "busy"))
		return busy(a, atof(b));
	if (!strcmp(command, "bad"))
		return bad();
	return add(name, total, opened);
}

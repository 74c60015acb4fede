// A driver library without a driver: two cards, the second one partitioned. Tests build
// it and steer it through files in the folder $FAKE_NVML: one named like a function (or
// function.index for one card) says what the function does instead of answering:
//   ret N     returns N           sleep MS   sleeps, then answers
//   segv      reads address 0     undefined NAME  ends as the loader does
// -DWITHOUT_<function> leaves a function out, as an old driver does.
#include <nvml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct nvmlDevice_st { int index; int mig; };
struct nvmlGpuInstance_st { int id, live, start; };
struct nvmlComputeInstance_st { int id, live; };
struct nvmlEventSet_st { int x; };
struct nvmlGpmSample_st { double at; };

static struct nvmlDevice_st cards[2] = {{0, -1}, {1, -1}};
static struct nvmlGpuInstance_st gis[7] = {{1, 1, 0}};
static struct nvmlComputeInstance_st cis[7] = {{0, 1}};
static struct nvmlDevice_st migs[7] = {{1, 0}, {1, 1}, {1, 2}, {1, 3}, {1, 4}, {1, 5}, {1, 6}};
static struct nvmlEventSet_st set;
static const char *dir;
static long calls;

static int hook(const char *name, int index, nvmlReturn_t *ret) {
	char path[512], what[32] = "", arg[96] = "";
	calls++;
	if (!dir) return 0;
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "r");
	if (!f) {
		snprintf(path, sizeof path, "%s/%s.%d", dir, name, index);
		f = fopen(path, "r");
	}
	if (!f) return 0;
	int n = fscanf(f, "%31s %95s", what, arg);
	fclose(f);
	if (n < 1) return 0;
	if (!strcmp(what, "ret")) { *ret = atoi(arg); return 1; }
	if (!strcmp(what, "sleep")) { usleep(1000L * atoi(arg)); return 0; }
	if (!strcmp(what, "segv")) { *(volatile int *)8 = 1; }
	if (!strcmp(what, "undefined")) { fprintf(stderr, "orch-nvml: symbol lookup error: orch-nvml: undefined symbol: %s\n", arg); _exit(127); }
	return 0;
}
#define HOOK(i) do { nvmlReturn_t r_; if (hook(__func__, (i), &r_)) return r_; } while (0)
#define DEV(name, ...) nvmlReturn_t name(nvmlDevice_t d, ##__VA_ARGS__)

nvmlReturn_t nvmlInit_v2(void) { dir = getenv("FAKE_NVML"); HOOK(0); return 0; }
nvmlReturn_t nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(nvmlReturn_t r) {
	switch (r) {
	case 3: return "Not Supported";
	case 15: return "GPU is lost";
	case 18: return "Driver/library version mismatch";
	default: return "Unknown Error";
	}
}
nvmlReturn_t nvmlSystemGetDriverVersion(char *v, unsigned n) { HOOK(0); snprintf(v, n, "580.159.03"); return 0; }
nvmlReturn_t nvmlSystemGetNVMLVersion(char *v, unsigned n) { HOOK(0); snprintf(v, n, "13.580.159.03"); return 0; }
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *v) { HOOK(0); *v = 13000; return 0; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *n) { HOOK(0); *n = 2; return 0; }
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned i, nvmlDevice_t *d) { HOOK(i); if (i > 1) return NVML_ERROR_INVALID_ARGUMENT; d->handle = &cards[i]; return 0; }
nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *u, nvmlDevice_t *d) {
	HOOK(0);
	if (!strcmp(u, "GPU-fake-0")) { d->handle = &cards[0]; return 0; }
	if (!strcmp(u, "GPU-fake-1")) { d->handle = &cards[1]; return 0; }
	return NVML_ERROR_NOT_FOUND;
}
DEV(nvmlDeviceGetName, char *s, unsigned n) { HOOK(d.handle->index); snprintf(s, n, "NVIDIA H200"); return 0; }
DEV(nvmlDeviceGetBrand, nvmlBrandType_t *b) { HOOK(d.handle->index); *b = NVML_BRAND_NVIDIA; return 0; }
DEV(nvmlDeviceGetUUID, char *s, unsigned n) {
	HOOK(d.handle->index);
	if (d.handle->mig >= 0) snprintf(s, n, "MIG-fake-%d-%d", d.handle->index, d.handle->mig); else snprintf(s, n, "GPU-fake-%d", d.handle->index);
	return 0;
}
DEV(nvmlDeviceGetMinorNumber, unsigned *v) { HOOK(d.handle->index); *v = d.handle->index; return 0; }
DEV(nvmlDeviceGetSerial, char *s, unsigned n) { HOOK(d.handle->index); snprintf(s, n, "165%d", d.handle->index); return 0; }
DEV(nvmlDeviceGetPciInfo_v3, nvmlPciInfo_t *p) {
	HOOK(d.handle->index);
	memset(p, 0, sizeof *p);
	snprintf(p->busId, sizeof p->busId, "00000000:%02X:00.0", 0x17 + 0x10 * d.handle->index);
	p->pciDeviceId = 0x233510de;
	return 0;
}
DEV(nvmlDeviceGetCudaComputeCapability, int *a, int *b) { HOOK(d.handle->index); *a = 9; *b = 0; return 0; }
DEV(nvmlDeviceGetArchitecture, nvmlDeviceArchitecture_t *a) { HOOK(d.handle->index); *a = NVML_DEVICE_ARCH_HOPPER; return 0; }
DEV(nvmlDeviceGetMemoryInfo, nvmlMemory_t *m) { HOOK(d.handle->index); m->total = 143771ull << 20; m->used = 1ull << 30; m->free = m->total - m->used; return 0; }
#ifndef WITHOUT_nvmlDeviceGetMemoryInfo_v2
DEV(nvmlDeviceGetMemoryInfo_v2, nvmlMemory_v2_t *m) {
	HOOK(d.handle->index);
	m->total = 143771ull << 20; m->reserved = 640ull << 20; m->used = 384ull << 20; m->free = m->total - m->reserved - m->used;
	return 0;
}
#endif
DEV(nvmlDeviceGetPersistenceMode, nvmlEnableState_t *s) { HOOK(d.handle->index); *s = 1; return 0; }
DEV(nvmlDeviceGetDisplayActive, nvmlEnableState_t *s) { HOOK(d.handle->index); *s = 0; return 0; }
static nvmlComputeMode_t mode[2];
DEV(nvmlDeviceGetComputeMode, nvmlComputeMode_t *m) { HOOK(d.handle->index); *m = mode[d.handle->index]; return 0; }
DEV(nvmlDeviceSetComputeMode, nvmlComputeMode_t m) { HOOK(d.handle->index); mode[d.handle->index] = m; return 0; }
DEV(nvmlDeviceGetEccMode, nvmlEnableState_t *a, nvmlEnableState_t *b) { HOOK(d.handle->index); *a = *b = 1; return 0; }
DEV(nvmlDeviceGetEnforcedPowerLimit, unsigned *v) { HOOK(d.handle->index); *v = 700000; return 0; }
DEV(nvmlDeviceGetPowerUsage, unsigned *v) { HOOK(d.handle->index); *v = 71234; return 0; }
DEV(nvmlDeviceGetClockInfo, nvmlClockType_t t, unsigned *v) { HOOK(d.handle->index); *v = t == NVML_CLOCK_MEM ? 3201 : 345; return 0; }
#ifndef WITHOUT_nvmlDeviceGetTemperature
DEV(nvmlDeviceGetTemperature, nvmlTemperatureSensors_t t, unsigned *v) { HOOK(d.handle->index); *v = 31; return 0; }
#endif
DEV(nvmlDeviceGetUtilizationRates, nvmlUtilization_t *u) { HOOK(d.handle->index); if (d.handle->index == 1) return NVML_ERROR_NOT_SUPPORTED; u->gpu = 12; u->memory = 3; return 0; }
DEV(nvmlDeviceGetBoardPartNumber, char *s, unsigned n) { HOOK(d.handle->index); snprintf(s, n, "900-21010-0040-000"); return 0; }
DEV(nvmlDeviceGetVbiosVersion, char *s, unsigned n) { HOOK(d.handle->index); return NVML_ERROR_NOT_SUPPORTED; }
DEV(nvmlDeviceGetMaxPcieLinkGeneration, unsigned *v) { HOOK(d.handle->index); *v = 5; return 0; }
DEV(nvmlDeviceGetMaxPcieLinkWidth, unsigned *v) { HOOK(d.handle->index); *v = 16; return 0; }
DEV(nvmlDeviceGetEncoderUtilization, unsigned *v, unsigned *us) { HOOK(d.handle->index); *v = 0; *us = 167000; return 0; }
DEV(nvmlDeviceGetDecoderUtilization, unsigned *v, unsigned *us) { HOOK(d.handle->index); *v = 0; *us = 167000; return 0; }
DEV(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long *v) { HOOK(d.handle->index); *v = 1; return 0; }
DEV(nvmlDeviceGetPerformanceState, nvmlPstates_t *v) { HOOK(d.handle->index); *v = NVML_PSTATE_0; return 0; }
DEV(nvmlDeviceGetProcessUtilization, nvmlProcessUtilizationSample_t *v, unsigned *n, unsigned long long since) {
	HOOK(d.handle->index);
	if (d.handle->index == 1) return NVML_ERROR_NOT_SUPPORTED;
	if (!v) { *n = 1; return NVML_ERROR_INSUFFICIENT_SIZE; }
	*n = 1;
	v[0].pid = 4242; v[0].timeStamp = 1; v[0].smUtil = 12;
	return 0;
}
DEV(nvmlDeviceGetVirtualizationMode, nvmlGpuVirtualizationMode_t *v) { HOOK(d.handle->index); *v = NVML_GPU_VIRTUALIZATION_MODE_NONE; return 0; }
DEV(nvmlDeviceGetFieldValues, int n, nvmlFieldValue_t *v) {
	HOOK(d.handle->index);
	for (int i = 0; i < n; i++) {
		v[i].nvmlReturn = NVML_SUCCESS;
		switch (v[i].fieldId) {
		case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: v[i].valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG; v[i].value.ullVal = 9007199254740991ull; break;
		case NVML_FI_DEV_MEMORY_TEMP: v[i].valueType = NVML_VALUE_TYPE_UNSIGNED_INT; v[i].value.uiVal = 36; break;
		case NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: v[i].valueType = NVML_VALUE_TYPE_UNSIGNED_INT; v[i].value.uiVal = 0; break;
		default: v[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
		}
	}
	return 0;
}
DEV(nvmlDeviceGetTopologyCommonAncestor, nvmlDevice_t e, nvmlGpuTopologyLevel_t *l) { HOOK(d.handle->index); *l = NVML_TOPOLOGY_NODE; return 0; }
DEV(nvmlDeviceGetNvLinkState, unsigned link, nvmlEnableState_t *s) { HOOK(d.handle->index); if (link >= 4) return NVML_ERROR_INVALID_ARGUMENT; *s = link < 3; return 0; }
DEV(nvmlDeviceGetNvLinkRemotePciInfo_v2, unsigned link, nvmlPciInfo_t *p) { HOOK(d.handle->index); return nvmlDeviceGetPciInfo_v3((nvmlDevice_t){&cards[1 - d.handle->index]}, p); }
DEV(nvmlDeviceGetComputeRunningProcesses, unsigned *n, nvmlProcessInfo_v1_t *p) { HOOK(d.handle->index); *n = 0; return 0; }
DEV(nvmlDeviceGetComputeRunningProcesses_v3, unsigned *n, nvmlProcessInfo_t *p) {
	HOOK(d.handle->index);
	if (*n < 1) { *n = 1; return NVML_ERROR_INSUFFICIENT_SIZE; }
	*n = 1;
	p[0].pid = 4242; p[0].usedGpuMemory = 384ull << 20;
	p[0].gpuInstanceId = d.handle->index == 1 ? 1 : 0xffffffff; p[0].computeInstanceId = d.handle->index == 1 ? 0 : 0xffffffff;
	return 0;
}
DEV(nvmlDeviceGetGraphicsRunningProcesses, unsigned *n, nvmlProcessInfo_v1_t *p) { HOOK(d.handle->index); *n = 0; return 0; }
DEV(nvmlDeviceGetSupportedEventTypes, unsigned long long *v) { HOOK(d.handle->index); *v = nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError; return 0; }
nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *s) { HOOK(0); s->handle = &set; return 0; }
DEV(nvmlDeviceRegisterEvents, unsigned long long m, nvmlEventSet_t s) { HOOK(d.handle->index); return 0; }
nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t s, nvmlEventData_t *e, unsigned ms) {
	char path[512];
	snprintf(path, sizeof path, "%s/xid", dir ? dir : "/nonexistent");
	for (unsigned t = 0; t < ms; t += 5) {
		FILE *f = fopen(path, "r");
		int xid = 0;
		if (f && fscanf(f, "%d", &xid) == 1) {
			fclose(f);
			unlink(path);
			if (xid < 0) return NVML_ERROR_GPU_IS_LOST;
			e->device.handle = &cards[1]; e->eventType = nvmlEventTypeXidCriticalError; e->eventData = xid;
			e->gpuInstanceId = 1; e->computeInstanceId = 0xffffffff;
			return 0;
		}
		if (f) fclose(f);
		usleep(5000);
	}
	return NVML_ERROR_TIMEOUT;
}
DEV(nvmlDeviceGetMigMode, unsigned *a, unsigned *b) { HOOK(d.handle->index); *a = *b = d.handle->index == 1; return 0; }
DEV(nvmlDeviceSetMigMode, unsigned m, nvmlReturn_t *st) { HOOK(d.handle->index); *st = 0; return 0; }
DEV(nvmlDeviceGetMaxMigDeviceCount, unsigned *n) { HOOK(d.handle->index); *n = 7; return 0; }
DEV(nvmlDeviceGetMigDeviceHandleByIndex, unsigned i, nvmlDevice_t *m) { HOOK(d.handle->index); if (d.handle->index != 1 || i >= 7 || !cis[i].live) return NVML_ERROR_NOT_FOUND; m->handle = &migs[i]; return 0; }
DEV(nvmlDeviceGetGpuInstanceId, unsigned *v) { HOOK(d.handle->index); *v = gis[d.handle->mig].id; return 0; }
DEV(nvmlDeviceGetComputeInstanceId, unsigned *v) { HOOK(d.handle->index); *v = cis[d.handle->mig].id; return 0; }
DEV(nvmlDeviceGetAttributes_v2, nvmlDeviceAttributes_t *a) {
	HOOK(d.handle->index);
	if (d.handle->mig < 0) return NVML_ERROR_NOT_SUPPORTED;
	memset(a, 0, sizeof *a);
	a->multiprocessorCount = 16; a->computeInstanceSliceCount = a->gpuInstanceSliceCount = 1; a->memorySizeMB = 16384;
	return 0;
}
static nvmlReturn_t profile(unsigned i, nvmlGpuInstanceProfileInfo_t *p) {
	if (i != NVML_GPU_INSTANCE_PROFILE_1_SLICE) return NVML_ERROR_NOT_SUPPORTED;
	memset(p, 0, sizeof *p);
	p->id = 19; p->sliceCount = 1; p->instanceCount = 7; p->multiprocessorCount = 16; p->copyEngineCount = 1; p->memorySizeMB = 16384;
	return 0;
}
DEV(nvmlDeviceGetGpuInstanceProfileInfo, unsigned i, nvmlGpuInstanceProfileInfo_t *p) { HOOK(d.handle->index); return profile(i, p); }
#ifndef WITHOUT_nvmlDeviceGetGpuInstanceProfileInfoV
DEV(nvmlDeviceGetGpuInstanceProfileInfoV, unsigned i, nvmlGpuInstanceProfileInfo_v2_t *v) {
	HOOK(d.handle->index);
	nvmlGpuInstanceProfileInfo_t p;
	nvmlReturn_t r = profile(i, &p);
	if (r) return r;
	v->id = p.id; v->sliceCount = 1; v->instanceCount = 7; v->multiprocessorCount = 16; v->copyEngineCount = 1; v->memorySizeMB = 16384;
	snprintf(v->name, sizeof v->name, "MIG 1g.18gb");
	return 0;
}
#endif
DEV(nvmlDeviceGetGpuInstancePossiblePlacements_v2, unsigned id, nvmlGpuInstancePlacement_t *p, unsigned *n) {
	HOOK(d.handle->index);
	for (int i = 0; p && i < 7; i++) { p[i].start = i; p[i].size = 1; }
	*n = 7;
	return 0;
}
DEV(nvmlDeviceGetGpuInstances, unsigned id, nvmlGpuInstance_t *out, unsigned *n) {
	HOOK(d.handle->index);
	*n = 0;
	for (int i = 0; i < 7; i++) if (gis[i].live) out[(*n)++].handle = &gis[i];
	return 0;
}
DEV(nvmlDeviceGetGpuInstanceById, unsigned id, nvmlGpuInstance_t *out) {
	HOOK(d.handle->index);
	for (int i = 0; i < 7; i++) if (gis[i].live && gis[i].id == (int)id) { out->handle = &gis[i]; return 0; }
	return NVML_ERROR_NOT_FOUND;
}
static nvmlReturn_t make(int start, nvmlGpuInstance_t *out) {
	for (int i = 0; i < 7; i++) if (gis[i].live && gis[i].start == start) return NVML_ERROR_INSUFFICIENT_RESOURCES;
	for (int i = 0; i < 7; i++) if (!gis[i].live) {
		gis[i].live = 1; gis[i].start = start; gis[i].id = start + 1;
		out->handle = &gis[i];
		return 0;
	}
	return NVML_ERROR_INSUFFICIENT_RESOURCES;
}
DEV(nvmlDeviceCreateGpuInstance, unsigned id, nvmlGpuInstance_t *out) {
	HOOK(d.handle->index);
	for (int s = 0; s < 7; s++) if (!make(s, out)) return 0;
	return NVML_ERROR_INSUFFICIENT_RESOURCES;
}
DEV(nvmlDeviceCreateGpuInstanceWithPlacement, unsigned id, const nvmlGpuInstancePlacement_t *p, nvmlGpuInstance_t *out) { HOOK(d.handle->index); return make(p->start, out); }
nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t g, nvmlGpuInstanceInfo_t *v) { HOOK(0); v->device.handle = &cards[1]; v->id = g.handle->id; v->profileId = 19; v->placement.start = g.handle->start; v->placement.size = 1; return 0; }
nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t g) { HOOK(0); g.handle->live = 0; return 0; }
nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t g, unsigned p, unsigned e, nvmlComputeInstanceProfileInfo_t *v) {
	HOOK(0);
	if (p != NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE) return NVML_ERROR_NOT_SUPPORTED;
	memset(v, 0, sizeof *v);
	v->sliceCount = v->instanceCount = 1;
	return 0;
}
nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t g, unsigned id, nvmlComputeInstance_t *out, unsigned *n) { HOOK(0); int i = g.handle - gis; *n = cis[i].live; out[0].handle = &cis[i]; return 0; }
nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t g, unsigned id, nvmlComputeInstance_t *out) { HOOK(0); int i = g.handle - gis; cis[i].live = 1; out->handle = &cis[i]; return 0; }
nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t c, nvmlComputeInstanceInfo_t *v) { HOOK(0); memset(v, 0, sizeof *v); return 0; }
nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t c) { HOOK(0); c.handle->live = 0; return 0; }
nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t d, nvmlGpmSupport_t *s) { HOOK(d.handle->index); s->isSupportedDevice = 1; return 0; }
nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *s) { HOOK(0); s->handle = malloc(4096); return 0; }
nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t s) { HOOK(0); free(s.handle); return 0; }
nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t d, nvmlGpmSample_t s) { HOOK(d.handle->index); s.handle->at = calls; return 0; }
nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t d, unsigned gi, nvmlGpmSample_t s) { HOOK(d.handle->index); s.handle->at = calls; return 0; }
nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *g) {
	HOOK(0);
	for (unsigned i = 0; i < g->numMetrics; i++) { g->metrics[i].nvmlReturn = 0; g->metrics[i].value = g->metrics[i].metricId == 5 ? 50 : 1; }
	return 0;
}

/*
 * A stand-in for NVIDIA's libnvidia-ml.so.1, with just the functions that pynvml calls for us, so
 * that the real pynvml runs on a machine without a GPU. What it pretends comes from the environment:
 *
 *   NVML_STUB_GPUS     number of GPUs (default 2)
 *   NVML_STUB_NAMES    names, separated by ';'; default "Stub GPU <n>"
 *   NVML_STUB_UUIDS    UUIDs, separated by ';'; default "GPU-00000000-0000-0000-0000-00000000000<n>"
 *   NVML_STUB_MEMORY   bytes of memory of each, separated by ';'; default 8 GiB; "-": not supported
 *   NVML_STUB_MIG      UUID of one MIG instance that can be looked up
 *   NVML_STUB_INIT     error code that initialization returns (default 0)
 *   NVML_STUB_LOST     index of a GPU that cannot be opened ("GPU is lost")
 *   NVML_STUB_LOG      file to which a line is appended for each initialization and shutdown
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    UNINITIALIZED = 1,
    GPU_IS_LOST = 15
};

typedef struct {
    unsigned long long total, free, used;
} memory_t;

typedef struct {
    int index;
} device_t;

static device_t devices[65];
static int initialized = 0;
#define MIG 64

static void note(const char *what) {
    const char *path = getenv("NVML_STUB_LOG");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%s\n", what);
        fclose(file);
    }
}

static int number(const char *variable, int otherwise) {
    const char *text = getenv(variable);
    return text && *text ? atoi(text) : otherwise;
}

/* The field of that index in a ';' list; 0 where there is none. */
static int field(const char *variable, int index, char *out, size_t size) {
    const char *text = getenv(variable);
    while (text && index-- > 0) {
        text = strchr(text, ';');
        text = text ? text + 1 : NULL;
    }
    if (!text)
        return 0;
    snprintf(out, size, "%.*s", (int)strcspn(text, ";"), text);
    return *out != 0;
}

static int copy(const char *text, char *out, unsigned int length) {
    if (strlen(text) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return SUCCESS;
}

static void uuid_of(int index, char *out, size_t size) {
    if (index == MIG)
        snprintf(out, size, "%s", getenv("NVML_STUB_MIG"));
    else if (!field("NVML_STUB_UUIDS", index, out, size))
        snprintf(out, size, "GPU-00000000-0000-0000-0000-%012d", index);
}

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    int code = number("NVML_STUB_INIT", SUCCESS);
    note(code ? "init failed" : "init");
    initialized += code == SUCCESS;
    return code;
}

int nvmlShutdown(void) {
    note("shutdown");
    initialized--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "an error of the stub";
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    if (!initialized)
        return UNINITIALIZED;
    *count = (unsigned int)number("NVML_STUB_GPUS", 2);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device_t **device) {
    if (!initialized)
        return UNINITIALIZED;
    if ((int)index >= number("NVML_STUB_GPUS", 2) || index >= MIG)
        return INVALID_ARGUMENT;
    if ((int)index == number("NVML_STUB_LOST", -1))
        return GPU_IS_LOST;
    devices[index].index = (int)index;
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device_t **device) {
    const char *mig = getenv("NVML_STUB_MIG");
    if (!initialized)
        return UNINITIALIZED;
    if (!mig || strcmp(mig, uuid) != 0)
        return NOT_FOUND;
    devices[MIG].index = MIG;
    *device = &devices[MIG];
    return SUCCESS;
}

int nvmlDeviceGetUUID(device_t *device, char *out, unsigned int length) {
    char text[128];
    uuid_of(device->index, text, sizeof text);
    return copy(text, out, length);
}

int nvmlDeviceGetName(device_t *device, char *out, unsigned int length) {
    char text[128];
    if (!field("NVML_STUB_NAMES", device->index, text, sizeof text))
        snprintf(text, sizeof text, "Stub GPU %d", device->index);
    return copy(text, out, length);
}

int nvmlDeviceGetMemoryInfo(device_t *device, memory_t *memory) {
    char text[64];
    unsigned long long total = 8ULL << 30;
    if (field("NVML_STUB_MEMORY", device->index, text, sizeof text)) {
        if (strcmp(text, "-") == 0)
            return NOT_SUPPORTED;
        total = strtoull(text, NULL, 10);
    }
    memory->total = total;
    memory->free = total;
    memory->used = 0;
    return SUCCESS;
}

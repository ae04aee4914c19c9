/* The functions of NVML that are called, answering from the file that NVML_STUB names; its lines:
 *   init CODE                 what nvmlInit returns (18 = the versions of driver and library differ)
 *   version TEXT              of the library
 *   gpu NAME|UUID|MIB|FREE|MHZ|BITS|MIG|DISPLAY|CODE
 *   instance NAME|UUID|MIB|FREE                                    of the gpu above
 * A number of -1 is "not supported"; CODE other than 0 is what asking for the device returns (15 = lost). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, MOST = 8 };

typedef struct Device {
    char name[96], uuid[96];
    long long mib, free_mib, mhz, bits, mig, display, code;
    int n_parts;
    struct Device *parts[MOST];
} Device;

static Device *gpus[MOST];
static int n_gpus;
static char version[80] = "12.550.54.14";

typedef struct { unsigned long long total, free, used; } Memory;

static Device *parse(char *text) {
    Device *device = calloc(1, sizeof *device);
    device->mhz = device->bits = device->mig = device->display = -1;
    sscanf(text, "%95[^|]|%95[^|]|%lld|%lld|%lld|%lld|%lld|%lld|%lld", device->name, device->uuid, &device->mib,
           &device->free_mib, &device->mhz, &device->bits, &device->mig, &device->display, &device->code);
    return device;
}

int nvmlInitWithFlags(unsigned flags) {
    int code = SUCCESS;
    char line[512];
    FILE *file = fopen(getenv("NVML_STUB"), "r");
    (void)flags;
    n_gpus = 0;
    while (fgets(line, sizeof line, file)) {
        sscanf(line, "init %d", &code);
        sscanf(line, "version %79s", version);
        if (!strncmp(line, "gpu ", 4)) gpus[n_gpus++] = parse(line + 4);
        if (!strncmp(line, "instance ", 9)) {
            Device *whole = gpus[n_gpus - 1];
            whole->parts[whole->n_parts++] = parse(line + 9);
        }
    }
    fclose(file);
    return code;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case NOT_SUPPORTED: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Error";
    }
}

static int text(const char *from, char *to, unsigned length) {
    snprintf(to, length, "%s", from);
    return SUCCESS;
}

static int number(long long from, unsigned *to) {
    if (from < 0) return NOT_SUPPORTED;
    *to = (unsigned)from;
    return SUCCESS;
}

int nvmlSystemGetNVMLVersion(char *to, unsigned length) { return text(version, to, length); }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)n_gpus;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    if (index >= (unsigned)n_gpus) return INVALID;
    *device = gpus[index];
    return (int)gpus[index]->code;
}

int nvmlDeviceGetName(Device *device, char *to, unsigned length) { return text(device->name, to, length); }
int nvmlDeviceGetUUID(Device *device, char *to, unsigned length) { return text(device->uuid, to, length); }

int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    if (device->mib < 0) return NOT_SUPPORTED;
    memory->total = (unsigned long long)device->mib << 20;
    memory->free = (unsigned long long)device->free_mib << 20;
    memory->used = memory->total - memory->free;
    return SUCCESS;
}

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char name[32];
} Slot;

/* The first of them is in 0000:01:00.0, the next in 0000:02:00.0, ... */
int nvmlDeviceGetPciInfo_v3(Device *device, Slot *slot) {
    memset(slot, 0, sizeof *slot);
    for (int at = 0; at < n_gpus; at++)
        if (gpus[at] == device) slot->bus = (unsigned)at + 1;
    return slot->bus ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetDisplayActive(Device *device, unsigned *is_active) { return number(device->display, is_active); }
int nvmlDeviceGetMemoryBusWidth(Device *device, unsigned *bits) { return number(device->bits, bits); }

int nvmlDeviceGetMaxClockInfo(Device *device, int which, unsigned *mhz) {
    return which == 2 ? number(device->mhz, mhz) : INVALID;
}

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    number(device->mig, pending);
    return number(device->mig, current);
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) {
    (void)device;
    *count = 7;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **part) {
    if (index >= (unsigned)device->n_parts) return NOT_FOUND;
    *part = device->parts[index];
    return SUCCESS;
}

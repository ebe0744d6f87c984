/* Preloaded over the few calls of libcudart that a session of onnxruntime's CUDA provider makes before its first kernel:
   one device of compute capability 9.0 whose memory is the host's. */
#include <stdlib.h>
#include <string.h>

enum { MAJOR = 75, MINOR = 76 }; /* cudaDevAttrComputeCapabilityMajor, ...Minor */

int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaSetDevice(int device) { return 0; }
int cudaGetLastError(void) { return 0; }
int cudaDriverGetVersion(int *version) { *version = 13020; return 0; }
int cudaDeviceSynchronize(void) { return 0; }

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == MAJOR ? 9 : attribute == MINOR ? 0 : 1024;
    return 0;
}

int cudaGetDeviceProperties(void *properties, int device) {
    memset(properties, 0, 1008);
    strcpy(properties, "no GPU");
    return 0;
}

int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = malloc(64); return 0; }
int cudaStreamDestroy(void *stream) { return 0; }
int cudaStreamQuery(void *stream) { return 0; }
int cudaStreamSynchronize(void *stream) { return 0; }

int cudaMemGetInfo(size_t *available, size_t *total) { *available = *total = (size_t)80 << 30; return 0; }
int cudaMalloc(void **pointer, size_t size) { *pointer = malloc(size); return 0; }
int cudaFree(void *pointer) { return 0; }
int cudaHostAlloc(void **pointer, size_t size, unsigned flags) { *pointer = malloc(size); return 0; }
int cudaMallocHost(void **pointer, size_t size) { *pointer = malloc(size); return 0; }
int cudaFreeHost(void *pointer) { return 0; }

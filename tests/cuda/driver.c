/* Stands in for libcuda.so.1: enough for onnxruntime's CUDA provider to load where there is no driver. */
#define UNAVAILABLE 100 /* CUDA_ERROR_NO_DEVICE */
#define VERSION 13020   /* of CUDA: 1000 major + 10 minor */

int cuInit(unsigned flags) { return UNAVAILABLE; }
int cuTensorMapEncodeTiled(void) { return UNAVAILABLE; }

int cuDriverGetVersion(int *version) {
    *version = VERSION;
    return 0;
}

int cuGetProcAddress(const char *name, void **address, int version, unsigned long flags) {
    *address = 0;
    return UNAVAILABLE;
}

int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long flags, void *status) {
    *address = 0;
    return UNAVAILABLE;
}

/* Loads a compiled model, runs it on one input of a chosen batch size and prints the first outputs.
 *
 *   run MODEL.precut [BATCH] [INPUT.f32]
 *
 * INPUT.f32 holds the input as raw float32 in (N, C, H, W) order; without it a ramp is used. One-input networks only. */
#include <stdio.h>
#include <stdlib.h>

#include "precut.h"

static size_t count(const precut_tensor* t) {
  size_t n = 1;
  for (int i = 0; i < t->rank; i++) n *= (size_t)t->dims[i];
  return n;
}

static int fail(const char* what) {
  fprintf(stderr, "%s\n", what);
  return 1;
}

int main(int argc, char** argv) {
  char err[256];
  precut_model* model;
  precut_tensor x, y[8];
  if (argc < 2) return fail("usage: run MODEL.precut [BATCH] [INPUT.f32]");
  if (precut_load_file(argv[1], NULL, &model, err, sizeof err) != PRECUT_OK) return fail(err);
  int outputs = precut_output_count(model);
  if (precut_input_count(model) != 1 || outputs > 8) return fail("this example runs networks of one input");
  precut_input_shape(model, 0, &x);
  if (argc > 2) x.dims[0] = atoi(argv[2]);
  if (precut_prepare(model, &x, 1, y, outputs, err, sizeof err) != PRECUT_OK) return fail(err);
  x.data = malloc(count(&x) * sizeof(float));
  if (!x.data) return fail("out of memory");
  for (size_t i = 0; i < count(&x); i++) x.data[i] = (float)(i % 17) / 17.0f - 0.5f;
  if (argc > 3) {
    FILE* f = fopen(argv[3], "rb");
    if (!f || fread(x.data, sizeof(float), count(&x), f) != count(&x)) return fail("cannot read the input file");
    fclose(f);
  }
  for (int i = 0; i < outputs; i++)
    if (!(y[i].data = malloc(count(&y[i]) * sizeof(float)))) return fail("out of memory");
  if (precut_run(model, &x, 1, y, outputs, err, sizeof err) != PRECUT_OK) return fail(err);
  for (int i = 0; i < outputs; i++) {
    for (size_t j = 0; j < count(&y[i]) && j < 16; j++) printf("%s%.6g", j ? " " : "", y[i].data[j]);
    printf("\n");
    free(y[i].data);
  }
  free(x.data);
  precut_close(model);
  return 0;
}

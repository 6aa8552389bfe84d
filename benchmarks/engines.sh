#!/bin/sh
# Every comparison of results/engines, one after the other. Run it on an idle machine; FOLDER=... writes elsewhere.
#   pip install '.[bench]' && precut bench --install-deepsparse --list
set -e
out=${FOLDER:-results/engines}
supports="dense PS4_P4 PSD4_P8 PS2_P4 PSD1_P16 PS1_P8"
for threads in 1 2; do
  for model in resnet18 vgg16; do
    precut bench $model --networks $supports mask:0.111 mask:0.05 --batch 1 --threads $threads --out "$out"
    precut bench $model --networks $supports mask:0.111 mask:0.05 --batch 32 --threads $threads --rounds 32 --out "$out" \
      --engines precut torch.compile onnxruntime openvino deepsparse "onnxruntime int8" "openvino int8"
  done
done
for model in mobilenetv2 speednet resnet8; do
  precut bench $model --networks dense PS4_P4 PSD1_P16 narrow:PS4_P4 narrow:PSD1_P16 --batch 1 --out "$out"
done
precut bench resnet18 --input-size 224 --networks dense PS4_P4 PSD1_P16 narrow:PSD1_P16 --batch 1 --out "$out"
for layer in 64@32 128@16 256@8 512@4; do
  precut bench --layer $layer --networks dense mask:0.3 mask:0.25 mask:0.2 mask:0.1 mask:0.05 mask:0.01 PS1_P8 --batch 1 --out "$out"
done
precut bench resnet18 --networks dense PS4_P4 PS2_P4 PSD1_P16 PS1_P8 mask:0.111 synflow:0.111 erk:0.111 mask:0.05 synflow:0.05 \
  erk:0.05 synflow:0.01 erk:0.01 --batch 1 --engines precut onnxruntime openvino deepsparse --out "$out" \
  --name resnet18-masks-batch1-threads1
python benchmarks/memory.py --out "$out"
python benchmarks/peak.py --batch 1 --out "$out"
python benchmarks/peak.py --batch 32 --out "$out"

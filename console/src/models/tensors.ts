/** Nested JSON lists to Open Inference v2 tensors and back. Pure. */

import { isRecord, type InferTensor, type Signature, type TensorSpec } from "../api";

const DATATYPES: Record<string, string> = {
  bool: "BOOL",
  uint8: "UINT8",
  uint16: "UINT16",
  uint32: "UINT32",
  uint64: "UINT64",
  int8: "INT8",
  int16: "INT16",
  int32: "INT32",
  int64: "INT64",
  float16: "FP16",
  float32: "FP32",
  float64: "FP64",
  bfloat16: "BF16",
};

/** The protocol's name of a dtype; texts and whatever has no name of its own are bytes. */
export function datatypeOf(dtype: string): string {
  return DATATYPES[dtype] ?? "BYTES";
}

/** Reads `{"input": [[1, 2]]}`: one nested list for each input of the signature. Throws an Error that says what is wrong. */
export function parseInputs(text: string, signature: Signature): InferTensor[] {
  let values: unknown;
  try {
    values = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (!isRecord(values)) throw new Error("Give an object with one list for each input.");
  const unknown = Object.keys(values).find((name) => !signature.inputs.some((spec) => spec.name === name));
  if (unknown !== undefined) throw new Error(`The model has no input named "${unknown}".`);
  return signature.inputs.map((spec) => toTensor(spec, values[spec.name]));
}

function toTensor(spec: TensorSpec, value: unknown): InferTensor {
  if (value === undefined) throw new Error(`The input "${spec.name}" is missing.`);
  const shape = shapeOf(value, spec.name);
  return { name: spec.name, shape, datatype: datatypeOf(spec.dtype), data: flatten(value) };
}

function shapeOf(value: unknown, name: string): number[] {
  if (!Array.isArray(value)) return [];
  const inner = value.map((item) => shapeOf(item, name));
  const first = inner[0] ?? [];
  if (inner.some((shape) => shape.join() !== first.join())) {
    throw new Error(`The lists of "${name}" differ in length.`);
  }
  return [value.length, ...first];
}

function flatten(value: unknown): unknown[] {
  return Array.isArray(value) ? value.flatMap(flatten) : [value];
}

/** The flat data of a tensor as lists nested by its shape. */
export function nest({ data, shape }: Pick<InferTensor, "data" | "shape">): unknown {
  const [, ...inner] = shape;
  if (inner.length === 0) return shape.length === 0 ? data[0] : data;
  const step = inner.reduce((product, size) => product * size, 1);
  return Array.from({ length: shape[0] ?? 0 }, (_, at) => nest({ data: data.slice(at * step, (at + 1) * step), shape: inner }));
}

/** Something of the right shape to start from: one row. */
export function exampleFor(signature: Signature): string {
  const lines = signature.inputs.map((spec) => `  ${JSON.stringify(spec.name)}: ${JSON.stringify(fill(spec))}`);
  return `{\n${lines.join(",\n")}\n}`;
}

function fill({ dtype, shape }: Pick<TensorSpec, "dtype" | "shape">): unknown {
  const [size, ...inner] = shape;
  if (size === undefined) return dtype === "bool" ? false : datatypeOf(dtype) === "BYTES" ? "" : 1;
  return Array.from({ length: size < 0 ? 1 : size }, () => fill({ dtype, shape: inner }));
}

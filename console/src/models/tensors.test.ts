import { describe, expect, it } from "vitest";
import type { Signature } from "../api";
import { datatypeOf, exampleFor, nest, parseInputs } from "./tensors";

const IRIS: Signature = {
  inputs: [{ name: "input", dtype: "float32", shape: [-1, 4] }],
  outputs: [],
};

describe("parseInputs", () => {
  it("flattens rows and tells their shape", () => {
    expect(parseInputs('{"input": [[1, 2, 3, 4], [5, 6, 7, 8]]}', IRIS)).toEqual([
      { name: "input", shape: [2, 4], datatype: "FP32", data: [1, 2, 3, 4, 5, 6, 7, 8] },
    ]);
  });

  it.each([
    ["{", /not JSON/],
    ["[1]", /Give an object/],
    ["{}", /"input" is missing/],
    ['{"input": [[1]], "x": 1}', /no input named "x"/],
    ['{"input": [[1, 2], [3]]}', /differ in length/],
    ['{"input": [1, [2]]}', /differ in length/],
  ])("says what is wrong with %s", (text, message) => {
    expect(() => parseInputs(text, IRIS)).toThrow(message);
  });
});

describe("nest", () => {
  it("undoes the flattening", () => {
    expect(nest({ data: [1, 2, 3, 4, 5, 6], shape: [2, 3] })).toEqual([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    expect(nest({ data: [1, 2], shape: [2] })).toEqual([1, 2]);
    expect(nest({ data: [1], shape: [] })).toBe(1);
    expect(nest({ data: [1, 2], shape: [1, 2, 1] })).toEqual([[[1], [2]]]);
    expect(nest({ data: [], shape: [0, 3] })).toEqual([]);
  });
});

describe("exampleFor", () => {
  it("gives JSON that parseInputs takes", () => {
    const signature: Signature = {
      inputs: [...IRIS.inputs, { name: "colour", dtype: "string", shape: [-1] }],
      outputs: [],
    };
    expect(parseInputs(exampleFor(signature), signature).map((tensor) => tensor.shape)).toEqual([[1, 4], [1]]);
  });
});

it("calls texts bytes", () => {
  expect([datatypeOf("int64"), datatypeOf("string"), datatypeOf("object")]).toEqual(["INT64", "BYTES", "BYTES"]);
});

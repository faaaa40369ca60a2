/** Sends hand-written inputs to a model and shows its outputs. */

import { Button, Textarea } from "@mantine/core";
import { useState } from "react";
import { infer, type InferResponse, type Model, type Signature } from "../api";
import { useServer } from "../server";
import { exampleFor, nest, parseInputs } from "./tensors";
import classes from "./Models.module.css";

interface Props {
  model: Model;
  signature: Signature;
}

interface Outcome {
  response: InferResponse;
  elapsedMs: number;
}

export function TryIt({ model, signature }: Props) {
  const { refresh } = useServer();
  const [text, setText] = useState(() => exampleFor(signature));
  const [running, setRunning] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const [outcome, setOutcome] = useState<Outcome | null>(null);

  const run = async () => {
    setError(null);
    setRunning(true);
    try {
      const inputs = parseInputs(text, signature);
      const started = performance.now();
      const response = await infer(model, inputs);
      setOutcome({ response, elapsedMs: performance.now() - started });
    } catch (problem) {
      setOutcome(null);
      setError(problem instanceof Error ? problem.message : String(problem));
    } finally {
      setRunning(false);
      void refresh(); // the request may have loaded the model
    }
  };

  return (
    <section aria-label="Try it">
      <h3>Try it</h3>
      <Textarea
        aria-label="Inputs as JSON"
        description="One nested list for each input; each inner list is a row."
        autosize
        minRows={3}
        maxRows={14}
        spellCheck={false}
        classNames={{ input: classes.codeInput ?? "" }}
        value={text}
        error={error}
        onChange={(event) => setText(event.currentTarget.value)}
      />
      <div className={classes.run}>
        <Button onClick={() => void run()} loading={running}>
          Run
        </Button>
        {outcome && <span className={classes.dim}>{outcome.elapsedMs.toFixed(0)} ms, there and back</span>}
      </div>
      {outcome && <Outputs response={outcome.response} />}
    </section>
  );
}

function Outputs({ response }: { response: InferResponse }) {
  return (
    <table className={classes.tensors} data-testid="outputs">
      <caption>
        Outputs of {response.model_name}:{response.model_version}
      </caption>
      <tbody>
        {response.outputs.map((tensor) => (
          <tr key={tensor.name}>
            <th scope="row">{tensor.name}</th>
            <td>{tensor.datatype}</td>
            <td>
              <code>{format(nest(tensor))}</code>
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** Rows below each other; numbers short enough to compare. */
function format(value: unknown): string {
  if (Array.isArray(value) && Array.isArray(value[0])) return value.map(format).join("\n");
  if (Array.isArray(value)) return value.map(format).join(", ");
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(5)));
  return typeof value === "string" ? value : JSON.stringify(value);
}

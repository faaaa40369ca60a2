/** The settings of the chat, applied as they are typed. */

import { Button, Drawer, NativeSelect, Stack, Text, Textarea, TextInput } from "@mantine/core";
import { useState } from "react";
import { countChanged, DEFAULT_SETTINGS, EFFORTS, useChat, type ChatSettings } from "./settings";

interface Props {
  opened: boolean;
  onClose: () => void;
}

export function SettingsDrawer({ opened, onClose }: Props) {
  return (
    <Drawer opened={opened} onClose={onClose} title="Chat settings" size="sm">
      <SettingsForm />
    </Drawer>
  );
}

function SettingsForm() {
  const { settings, change } = useChat();
  const [generation, setGeneration] = useState(0);
  const reset = () => {
    change({ ...DEFAULT_SETTINGS, model: settings.model });
    setGeneration((before) => before + 1);
  };
  return (
    <Stack gap="lg" key={generation}>
      <Textarea
        label="System prompt"
        description="Stands before the conversation, and steers every answer."
        placeholder="You are a helpful assistant."
        minRows={4}
        maxRows={12}
        autosize
        value={settings.system}
        onChange={(event) => change({ system: event.currentTarget.value })}
      />
      {NUMBERS.map((field) => (
        <NumberSetting key={field.name} {...field} />
      ))}
      <NativeSelect
        label="Reasoning"
        description="How much the model thinks before it answers, if it is one that thinks."
        data={[{ value: "", label: "Default" }, ...EFFORTS]}
        value={settings.effort ?? ""}
        onChange={(event) => change({ effort: event.currentTarget.value || null })}
      />
      <Text size="xs" c="dimmed">
        An empty field leaves the choice to the server. Settings stay in this browser and count from the next message on.
      </Text>
      <Button variant="default" size="sm" onClick={reset} disabled={countChanged(settings) === 0}>
        Reset to the defaults
      </Button>
    </Stack>
  );
}

interface NumberField {
  name: "temperature" | "topP" | "maxTokens" | "seed";
  label: string;
  description: string;
  min: number;
  max: number;
  step: number;
  whole: boolean;
}

const NUMBERS: NumberField[] = [
  {
    name: "temperature",
    label: "Temperature",
    description: "0 is the most predictable; higher is more varied.",
    min: 0,
    max: 2,
    step: 0.1,
    whole: false,
  },
  {
    name: "topP",
    label: "Top P",
    description: "Choose only among the likeliest tokens that together reach this probability.",
    min: 0,
    max: 1,
    step: 0.05,
    whole: false,
  },
  {
    name: "maxTokens",
    label: "Max tokens",
    description: "The longest answer, in tokens.",
    min: 1,
    max: 1_000_000,
    step: 1,
    whole: true,
  },
  {
    name: "seed",
    label: "Seed",
    description: "The same seed and conversation give the same answer.",
    min: 0,
    max: 2_147_483_647,
    step: 1,
    whole: true,
  },
];

function NumberSetting({ name, label, description, min, max, step, whole }: NumberField) {
  const { settings, change } = useChat();
  const [text, setText] = useState(() => settings[name]?.toString() ?? "");
  const [error, setError] = useState<string | null>(null);

  const accept = (value: string) => {
    setText(value);
    const part: Partial<ChatSettings> = { [name]: value === "" ? null : Number(value) };
    const problem = value === "" ? null : problemWith(Number(value), { min, max, whole });
    setError(problem);
    if (!problem) change(part);
  };

  return (
    <TextInput
      type="number"
      inputMode={whole ? "numeric" : "decimal"}
      label={label}
      description={description}
      placeholder="Default"
      min={min}
      max={max}
      step={step}
      value={text}
      error={error}
      onChange={(event) => accept(event.currentTarget.value)}
    />
  );
}

function problemWith(value: number, { min, max, whole }: Pick<NumberField, "min" | "max" | "whole">): string | null {
  if (Number.isNaN(value)) return "Give a number.";
  if (whole && !Number.isInteger(value)) return "Give a whole number.";
  if (value < min || value > max) return `Give a number from ${min} to ${max}.`;
  return null;
}

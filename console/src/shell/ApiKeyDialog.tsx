/** Asks for the API key when the server wants one. The key lives as long as the tab. */

import { Button, Modal, PasswordInput, Stack, Text } from "@mantine/core";
import { useState, type FormEvent } from "react";
import { hasApiKey, setApiKey } from "../api";
import { useServer } from "../server";

export function ApiKeyDialog() {
  const { connection } = useServer();
  return (
    <Modal
      opened={connection === "unauthorized"}
      onClose={() => undefined}
      withCloseButton={false}
      closeOnEscape={false}
      closeOnClickOutside={false}
      title="API key"
    >
      <KeyForm />
    </Modal>
  );
}

function KeyForm() {
  const { refresh } = useServer();
  const [key, setKey] = useState("");
  const [refused, setRefused] = useState(hasApiKey);
  const [trying, setTrying] = useState(false);

  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setApiKey(key.trim());
    setTrying(true);
    await refresh();
    setTrying(false);
    setRefused(true);
  };

  return (
    <form onSubmit={(event) => void submit(event)}>
      <Stack gap="md">
        <Text size="sm" c="dimmed">
          This server answers only with a key. It stays in this tab and is forgotten when the tab closes.
        </Text>
        <PasswordInput
          label="Key"
          data-autofocus
          autoComplete="off"
          value={key}
          onChange={(event) => setKey(event.currentTarget.value)}
          error={refused ? "The server did not accept this key." : null}
        />
        <Button type="submit" size="sm" loading={trying} disabled={key.trim() === ""}>
          Use this key
        </Button>
      </Stack>
    </form>
  );
}

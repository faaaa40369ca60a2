/** Above the conversation: the model, a new chat, the settings. */

import { useAui, useAuiState } from "@assistant-ui/react";
import { ActionIcon, Button, Select, Tooltip } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { CheckIcon, ChevronDownIcon, PlusIcon, SlidersIcon } from "../icons";
import { StateDot } from "../models/StateBadge";
import { modelBehind, useServer } from "../server";
import { countChanged, useChat } from "./settings";
import { SettingsDrawer } from "./SettingsDrawer";
import classes from "./Chat.module.css";

export function ChatBar() {
  const { settings } = useChat();
  const [opened, drawer] = useDisclosure(false);
  const changed = countChanged(settings);
  return (
    <div className={classes.bar}>
      <ModelChoice />
      <div className={classes.barEnd}>
        <NewChat />
        <Tooltip label="Settings">
          <ActionIcon
            variant="subtle"
            color="gray"
            size="lg"
            onClick={drawer.open}
            aria-label={changed > 0 ? `Settings, ${changed} changed` : "Settings"}
            className={classes.settingsButton}
          >
            <SlidersIcon />
            {changed > 0 && <span className={classes.changedMark} />}
          </ActionIcon>
        </Tooltip>
      </div>
      <SettingsDrawer opened={opened} onClose={drawer.close} />
    </div>
  );
}

function ModelChoice() {
  const { model, chatModels, change } = useChat();
  const server = useServer();
  return (
    <Select
      className={classes.modelChoice}
      classNames={{ input: classes.modelInput ?? "" }}
      aria-label="Model"
      placeholder={server.connection === "online" ? "No chat model" : "Model"}
      data={chatModels}
      value={model}
      onChange={(value) => change({ model: value })}
      allowDeselect={false}
      disabled={chatModels.length === 0}
      variant="unstyled"
      rightSection={<ChevronDownIcon size={14} />}
      comboboxProps={{ width: 320, position: "bottom-start" }}
      renderOption={({ option, checked }) => {
        const behind = modelBehind(option.value, server);
        return (
          <div className={classes.modelOption}>
            <div className={classes.modelOptionHead}>
              <span className={classes.modelOptionName}>{option.label}</span>
              {behind && <StateDot state={behind.state} />}
              {checked && <CheckIcon />}
            </div>
            {behind?.description && <p>{behind.description}</p>}
          </div>
        );
      }}
    />
  );
}

function NewChat() {
  const aui = useAui();
  const isEmpty = useAuiState((state) => state.thread.isEmpty);
  const start = () => {
    aui.thread().cancelRun();
    aui.threads().switchToNewThread();
  };
  return (
    <Button variant="default" size="xs" leftSection={<PlusIcon />} onClick={start} disabled={isEmpty}>
      New chat
    </Button>
  );
}

/** Says that the server cannot be reached, and offers to try again. */

import { Button } from "@mantine/core";
import { useState } from "react";
import { AlertIcon } from "../icons";
import { useServer } from "../server";
import classes from "./Shell.module.css";

export function ConnectionBanner() {
  const { connection, refresh } = useServer();
  const [trying, setTrying] = useState(false);
  if (connection !== "offline") return null;
  const retry = async () => {
    setTrying(true);
    await refresh();
    setTrying(false);
  };
  return (
    <div className={classes.banner} role="alert">
      <AlertIcon />
      <span>The server cannot be reached. It is tried again every few seconds.</span>
      <Button variant="default" size="compact-sm" loading={trying} onClick={() => void retry()}>
        Retry now
      </Button>
    </div>
  );
}

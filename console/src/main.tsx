/** Entry point: styles, providers, and the page. */

import "./styles/mantine";
import "./styles/theme.css";

import { MantineProvider } from "@mantine/core";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Router } from "wouter";
import { App } from "./App";
import { ServerProvider } from "./server";
import { theme } from "./theme";

const root = document.getElementById("root");
if (!root) throw new Error("index.html has no element with the id root");

// Mantine would write its variables and classes into <style> elements, which the content security
// policy forbids; styles/ brings them as files.
createRoot(root).render(
  <StrictMode>
    <MantineProvider theme={theme} defaultColorScheme="auto" withCssVariables={false} withGlobalClasses={false}>
      <Router base="/console">
        <ServerProvider>
          <App />
        </ServerProvider>
      </Router>
    </MantineProvider>
  </StrictMode>,
);

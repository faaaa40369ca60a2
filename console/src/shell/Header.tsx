/** Name, pages, state of the connection, colour scheme. */

import { Tooltip } from "@mantine/core";
import { Link, useRoute } from "wouter";
import { ChatIcon, ModelsIcon, VisionIcon } from "../icons";
import { useServer, type Connection } from "../server";
import { ColorSchemeMenu } from "./ColorSchemeMenu";
import classes from "./Shell.module.css";

const PAGES = [
  { path: "/chat", label: "Chat", Icon: ChatIcon },
  { path: "/vision", label: "Vision", Icon: VisionIcon },
  { path: "/models", label: "Models", Icon: ModelsIcon },
];

export function Header() {
  return (
    <header className={classes.header}>
      <Link href="/chat" className={classes.brand} aria-label="Inference Engine, home">
        <Mark />
        <span className={classes.brandName}>Inference Engine</span>
      </Link>
      <nav className={classes.nav} aria-label="Pages">
        {PAGES.map((page) => (
          <NavItem key={page.path} {...page} />
        ))}
      </nav>
      <div className={classes.headerEnd}>
        <ConnectionState />
        <ColorSchemeMenu />
      </div>
    </header>
  );
}

function NavItem({ path, label, Icon }: (typeof PAGES)[number]) {
  const [active] = useRoute(path);
  return (
    <Link href={path} className={classes.navItem} aria-current={active ? "page" : undefined}>
      <Icon />
      {label}
    </Link>
  );
}

const CONNECTION_TEXT: Record<Connection, string> = {
  connecting: "Connecting to the server",
  online: "Connected to the server",
  offline: "The server cannot be reached",
  unauthorized: "The server asks for an API key",
};

function ConnectionState() {
  const { connection, system } = useServer();
  return (
    <Tooltip label={CONNECTION_TEXT[connection]}>
      <div className={classes.connection} role="status" aria-label={CONNECTION_TEXT[connection]}>
        <span className={classes.dot} data-connection={connection} />
        {system && <span className={classes.version}>v{system.version}</span>}
      </div>
    </Tooltip>
  );
}

function Mark() {
  return (
    <svg className={classes.mark} viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="8" />
      <path d="M8 21.500 13.200 10.500 16.800 18 20.200 12.500 24 21.500" />
    </svg>
  );
}

/** The frame around every page: header, connection banner, dialog for the API key. */

import type { ReactNode } from "react";
import { ApiKeyDialog } from "./ApiKeyDialog";
import { ConnectionBanner } from "./ConnectionBanner";
import { Header } from "./Header";
import classes from "./Shell.module.css";

export function Shell({ children }: { children: ReactNode }) {
  return (
    <div className={classes.shell}>
      <a className={classes.skip} href="#content">
        Skip to the content
      </a>
      <Header />
      <ConnectionBanner />
      <main id="content" className={classes.content} tabIndex={-1}>
        {children}
      </main>
      <ApiKeyDialog />
    </div>
  );
}

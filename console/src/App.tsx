/** Which page a path shows. Each page is a chunk of its own, fetched when first visited. */

import { Anchor, Loader } from "@mantine/core";
import { lazy, Suspense, useState, type ReactNode } from "react";
import { Link, Redirect, useLocation } from "wouter";
import { Shell } from "./shell/Shell";
import classes from "./shell/Shell.module.css";

const ChatPage = lazy(() => import("./chat/ChatPage"));
const ModelsPage = lazy(() => import("./models/ModelsPage"));
const VisionPage = lazy(() => import("./vision/VisionPage"));

export function App() {
  const [path] = useLocation();
  return (
    <Shell>
      <Suspense fallback={<PageLoader />}>
        <KeptAlive shown={path === "/chat"}>
          <ChatPage />
        </KeptAlive>
        {page(path)}
      </Suspense>
    </Shell>
  );
}

function page(path: string): ReactNode {
  if (path === "/chat") return null;
  if (path === "/models") return <ModelsPage />;
  if (path === "/vision") return <VisionPage />;
  if (path === "/" || path === "") return <Redirect to="/chat" replace />;
  return <UnknownPage />;
}

/** Mounts its content at the first visit and only hides it later: a conversation goes on meanwhile. */
function KeptAlive({ shown, children }: { shown: boolean; children: ReactNode }) {
  const [visited, setVisited] = useState(shown);
  if (shown && !visited) setVisited(true);
  if (!visited && !shown) return null;
  return (
    <div className={classes.page} hidden={!shown}>
      {children}
    </div>
  );
}

function PageLoader() {
  return (
    <div className={classes.centre}>
      <Loader size="sm" aria-label="Loading the page" />
    </div>
  );
}

function UnknownPage() {
  return (
    <div className={classes.centre}>
      <p>There is no page at this address.</p>
      <Anchor component={Link} href="/chat">
        Go to the chat
      </Anchor>
    </div>
  );
}

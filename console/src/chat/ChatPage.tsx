/** The chat: one conversation with one model at a time. */

import { AssistantRuntimeProvider, useLocalRuntime } from "@assistant-ui/react";
import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { useLocation, useSearch } from "wouter";
import { modelBehind, useServer } from "../server";
import { chatAdapter } from "./adapter";
import { ChatBar } from "./ChatBar";
import { ChatContext, readSettings, writeSettings, type ChatContextValue, type ChatSettings } from "./settings";
import { Thread } from "./Thread";
import classes from "./Chat.module.css";

export default function ChatPage() {
  const chat = useChatState();
  const latest = useRef(chat);
  useEffect(() => {
    latest.current = chat;
  });
  const adapter = useMemo(() => chatAdapter(() => latest.current), []);
  const runtime = useLocalRuntime(adapter);
  return (
    <AssistantRuntimeProvider runtime={runtime}>
      <ChatContext.Provider value={chat}>
        <div className={classes.page}>
          <ChatBar />
          <Thread />
        </div>
      </ChatContext.Provider>
    </AssistantRuntimeProvider>
  );
}

function useChatState(): ChatContextValue {
  const server = useServer();
  const [settings, setSettings] = useState<ChatSettings>(readSettings);

  const change = useCallback((part: Partial<ChatSettings>) => {
    setSettings((before) => {
      const after = { ...before, ...part };
      writeSettings(after);
      return after;
    });
  }, []);

  // A link may ask for a model: `/chat?model=NAME`. The address is then put back, so that a later choice holds.
  const [path, navigate] = useLocation();
  const asked = new URLSearchParams(useSearch()).get("model");
  useEffect(() => {
    if (path !== "/chat" || !asked) return;
    change({ model: asked });
    navigate("/chat", { replace: true });
  }, [path, asked, change, navigate]);

  const chatModels = useMemo(
    // A name whose model is unknown is offered: the server may hide what is behind it.
    () => server.publicNames.filter((name) => modelBehind(name, server)?.capabilities.includes("chat") ?? true),
    [server],
  );
  const chosen = settings.model;
  const model = chosen && chatModels.includes(chosen) ? chosen : (chatModels[0] ?? null);
  return useMemo(() => ({ settings, change, model, chatModels }), [settings, change, model, chatModels]);
}

import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

/**
 * The page may talk to its own server and to nobody else. The policy is added to the built page only:
 * the development server needs inline styles and a web socket.
 */
const POLICY = [
  "default-src 'self'",
  "img-src 'self' data: blob:",
  "media-src 'self' blob:",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'self'",
].join("; ");

function contentSecurityPolicy(): Plugin {
  return {
    name: "content-security-policy",
    apply: "build",
    transformIndexHtml: () => [
      {
        tag: "meta",
        attrs: { "http-equiv": "Content-Security-Policy", content: POLICY },
        injectTo: "head-prepend",
      },
    ],
  };
}

const SERVER = "http://127.0.0.1:8000";

export default defineConfig({
  base: "/console/",
  plugins: [react(), contentSecurityPolicy()],
  build: {
    outDir: "../inference_engine/adapters/http/console_dist",
    emptyOutDir: true,
    sourcemap: false,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
  },
  server: {
    proxy: { "/v1": SERVER, "/v2": SERVER, "/admin": SERVER },
  },
});

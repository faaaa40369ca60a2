/** Mantine's defaults for this console. Colours live in styles/theme.css. */

import { Button, createTheme, Drawer, Modal, Tooltip } from "@mantine/core";

export const theme = createTheme({
  respectReducedMotion: true,
  components: {
    Button: Button.extend({ defaultProps: { size: "xs" } }),
    // Scroll locking injects a style sheet, which the content security policy forbids; pages scroll inside.
    Drawer: Drawer.extend({ defaultProps: { lockScroll: false, position: "right", closeButtonProps: { "aria-label": "Close" } } }),
    Modal: Modal.extend({ defaultProps: { lockScroll: false, centered: true } }),
    Tooltip: Tooltip.extend({ defaultProps: { openDelay: 400, withArrow: true } }),
  },
});

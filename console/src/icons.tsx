/** The console's icons: strokes on a 24 grid, in the colour and size of the text around them. */

import type { ReactNode } from "react";

interface IconProps {
  size?: number | string;
}

function icon(shape: ReactNode) {
  return function Icon({ size = "1.125em" }: IconProps) {
    return (
      <svg
        width={size}
        height={size}
        viewBox="0 0 24 24"
        fill="none"
        stroke="currentColor"
        strokeWidth="1.8"
        strokeLinecap="round"
        strokeLinejoin="round"
        aria-hidden="true"
        focusable="false"
      >
        {shape}
      </svg>
    );
  };
}

export const SendIcon = icon(<path d="M12 19V5m-6 6 6-6 6 6" />);
export const StopIcon = icon(<rect x="7" y="7" width="10" height="10" rx="1.500" fill="currentColor" />);
export const CopyIcon = icon(
  <>
    <rect x="9" y="9" width="11" height="11" rx="2" />
    <path d="M5 15H4.500A1.500 1.500 0 0 1 3 13.500v-9A1.500 1.500 0 0 1 4.500 3h9A1.500 1.500 0 0 1 15 4.500V5" />
  </>,
);
export const CheckIcon = icon(<path d="m5 12.500 4.500 4.500L19 7.500" />);
export const RetryIcon = icon(
  <>
    <path d="M20 11.500a8 8 0 1 0-2.300 6.100" />
    <path d="M20.500 5.500v6h-6" />
  </>,
);
export const EditIcon = icon(<path d="M4 20h4L19.500 8.500a2.100 2.100 0 0 0-3-3L5 17l-1 3Zm10.500-12.500 3 3" />);
export const PlusIcon = icon(<path d="M12 5v14M5 12h14" />);
export const SlidersIcon = icon(
  <>
    <path d="M4 8h9m5 0h2M4 16h2m5 0h9" />
    <circle cx="15.500" cy="8" r="2.200" />
    <circle cx="8.500" cy="16" r="2.200" />
  </>,
);
export const ChatIcon = icon(<path d="M20 14.500a2.500 2.500 0 0 1-2.500 2.500H9l-5 4V6.500A2.500 2.500 0 0 1 6.500 4h11A2.500 2.500 0 0 1 20 6.500v8Z" />);
export const VisionIcon = icon(
  <>
    <path d="M2.500 12S6 5.500 12 5.500 21.500 12 21.500 12 18 18.500 12 18.500 2.500 12 2.500 12Z" />
    <circle cx="12" cy="12" r="3" />
  </>,
);
export const ModelsIcon = icon(<path d="m12 3 8.500 4.500v9L12 21l-8.500-4.500v-9L12 3Zm0 9 8.500-4.500M12 12v9m0-9L3.500 7.500" />);
export const SunIcon = icon(
  <>
    <circle cx="12" cy="12" r="4" />
    <path d="M12 2.500v2m0 15v2m9.500-9.500h-2m-15 0h-2m16.200-6.700-1.400 1.400M6.700 17.300l-1.400 1.400m13.400 0-1.400-1.400M6.700 6.700 5.300 5.300" />
  </>,
);
export const MoonIcon = icon(<path d="M20.500 14A8.500 8.500 0 0 1 10 3.500 8.500 8.500 0 1 0 20.500 14Z" />);
export const AutoIcon = icon(
  <>
    <circle cx="12" cy="12" r="8.500" />
    <path d="M12 3.500v17a8.500 8.500 0 0 0 0-17Z" fill="currentColor" />
  </>,
);
export const SearchIcon = icon(<path d="M10.500 17a6.500 6.500 0 1 0 0-13 6.500 6.500 0 0 0 0 13Zm4.700-1.800L20.500 20.500" />);
export const AlertIcon = icon(<path d="M12 8.500v4.500m0 3.200v.1M10.300 4 2.800 17.500A2 2 0 0 0 4.500 20.500h15a2 2 0 0 0 1.700-3L13.700 4a2 2 0 0 0-3.400 0Z" />);
export const ChevronLeftIcon = icon(<path d="m14.500 6-6 6 6 6" />);
export const ChevronRightIcon = icon(<path d="m9.500 6 6 6-6 6" />);
export const ChevronDownIcon = icon(<path d="m6 9.500 6 6 6-6" />);
export const ArrowDownIcon = icon(<path d="M12 5v14m6-6-6 6-6-6" />);
export const KeyIcon = icon(
  <>
    <circle cx="8" cy="15.500" r="4.500" />
    <path d="M11.500 12.500 20 4m-3.500 3.500 3 3M14 10l1.500 1.500" />
  </>,
);

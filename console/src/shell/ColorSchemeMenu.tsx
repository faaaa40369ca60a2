/** Light, dark, or as the system says. Mantine keeps the choice. */

import { ActionIcon, Menu, useMantineColorScheme } from "@mantine/core";
import { AutoIcon, CheckIcon, MoonIcon, SunIcon } from "../icons";

const SCHEMES = [
  { value: "light", label: "Light", Icon: SunIcon },
  { value: "dark", label: "Dark", Icon: MoonIcon },
  { value: "auto", label: "As the system", Icon: AutoIcon },
] as const;

export function ColorSchemeMenu() {
  const { colorScheme, setColorScheme } = useMantineColorScheme({
    // Suppressing them takes a <style> element, which the content security policy forbids.
    keepTransitions: true,
  });
  const Current = SCHEMES.find((scheme) => scheme.value === colorScheme)?.Icon ?? AutoIcon;
  return (
    <Menu position="bottom-end" width={180}>
      <Menu.Target>
        <ActionIcon variant="subtle" color="gray" size="lg" aria-label="Colour scheme">
          <Current />
        </ActionIcon>
      </Menu.Target>
      <Menu.Dropdown>
        {SCHEMES.map(({ value, label, Icon }) => (
          <Menu.Item
            key={value}
            leftSection={<Icon />}
            rightSection={value === colorScheme ? <CheckIcon /> : null}
            onClick={() => setColorScheme(value)}
          >
            {label}
          </Menu.Item>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}

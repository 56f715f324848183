import type { ReactNode } from 'react';
import { Icon, type IconName } from './Icon';

export type Hue = 'red' | 'amber' | 'teal' | 'violet' | 'line' | 'plain';

export function Badge({ hue, icon, children }: { hue: Hue; icon?: IconName; children: ReactNode }) {
  return (
    <span className={hue === 'plain' ? 'badge' : `badge ${hue}`}>
      {icon && <Icon name={icon} />}
      {children}
    </span>
  );
}

import { Link } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import { screens } from '../screens';

type Props = { screen: string; params?: Record<string, string>; search?: Record<string, string | undefined>; className?: string; children: ReactNode };

// To leads to a screen, if there is such a screen, and is plain text otherwise.
export function To({ screen, params, search, className = 'link', children }: Props) {
  if (!screens.some((s) => s.path === screen)) return <span className={className.replace('link', '')}>{children}</span>;
  return (
    <Link to={screen} params={(params ?? {}) as never} search={(search ?? {}) as never} className={className}>
      {children}
    </Link>
  );
}

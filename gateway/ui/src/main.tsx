import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { createRootRoute, createRoute, createRouter, lazyRouteComponent, Outlet, RouterProvider } from '@tanstack/react-router';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { Refused, whenSessionEnds } from './api/client';
import { Bones, Empty, Failure } from './parts/States';
import { screens } from './screens';
import { Frame } from './shell/Frame';
import { OpenLink, Password } from './shell/Link';
import { Page } from './shell/Page';
import { readQuery, writeQuery } from './shell/place';
import { SignIn } from './shell/SignIn';
import './style/tokens.css';
import './style/base.css';
import './style/frame.css';
import './style/parts.css';

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 1000,
      refetchOnWindowFocus: false, // the page catches up when it is seen again: see shell/live.ts
      retry: (failures, error) => failures < 2 && error instanceof Refused && (error.status === 0 || error.status >= 500 || error.status === 429),
    },
  },
});
whenSessionEnds(() => {
  if (queries.getQueryData(['session'])) queries.setQueryData(['session'], null);
});

const root = createRootRoute({ component: Outlet });
const frame = createRoute({ getParentRoute: () => root, id: 'frame', component: Frame });
const router = createRouter({
  basepath: '/ui',
  routeTree: root.addChildren([
    createRoute({ getParentRoute: () => root, path: '/sign-in', component: SignIn }),
    createRoute({ getParentRoute: () => root, path: '/link', component: OpenLink }),
    createRoute({ getParentRoute: () => root, path: '/password', component: Password }),
    frame.addChildren([
      ...screens.map((s) => createRoute({ getParentRoute: () => frame, path: s.path, component: lazyRouteComponent(s.load) })),
    ]),
  ]),
  parseSearch: readQuery,
  stringifySearch: writeQuery,
  defaultPendingComponent: () => (
    <main id="main">
      <Bones />
    </main>
  ),
  defaultErrorComponent: ({ error }) => (
    <Page title="Something went wrong">
      <section className="card">
        <Failure error={error} retry={() => location.reload()} />
      </section>
    </Page>
  ),
  defaultNotFoundComponent: () => (
    <main className="sign">
      <Empty title="There is no such page">
        <a className="link" href="/ui/">
          Go to the start
        </a>
      </Empty>
    </main>
  ),
  scrollRestoration: true,
});

createRoot(document.getElementById('app') as HTMLElement).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <RouterProvider router={router} />
    </QueryClientProvider>
  </StrictMode>,
);

import react from '@vitejs/plugin-react';
import { defineConfig, loadEnv } from 'vite';

// The output is committed and compared by CI: it must be the same bytes on every machine, so nothing here may depend on
// time, path or order. Chunks are named after their screens, which keeps a change of one screen to few files.
export default defineConfig(({ mode }) => {
  const { SLUICE_URL, SLUICE_API_KEY } = loadEnv(mode, '.', 'SLUICE_');
  return {
    base: '/ui/',
    plugins: [react()],
    build: {
      target: 'es2022',
      assetsInlineLimit: 0, // data: URLs are what the content security policy refuses
      modulePreload: { polyfill: false },
      reportCompressedSize: false,
      chunkSizeWarningLimit: 1000,
      rollupOptions: {
        output: {
          entryFileNames: 'assets/[name]-[hash].js',
          chunkFileNames: 'assets/[name]-[hash].js',
          assetFileNames: 'assets/[name]-[hash][extname]',
          // What all screens share is two files, and each screen one: a change of a screen changes few of them.
          codeSplitting: {
            groups: [
              { name: 'libraries', test: /node_modules\/(?!@xyflow|@dagrejs|d3-|zustand|use-sync|classcat)|rolldown|vite/, priority: 1 },
              { name: 'graph', test: /node_modules/ }, // only who looks at a graph needs these
              { name: 'house', test: /src\/(api|parts|shell)\// },
            ],
          },
        },
      },
    },
    // npm run dev shows a running server by its API, as who the key in SLUICE_API_KEY belongs to.
    server: {
      proxy: {
        '/v1': {
          target: SLUICE_URL ?? 'http://127.0.0.1:8080',
          headers: SLUICE_API_KEY ? { authorization: `Bearer ${SLUICE_API_KEY}` } : {},
        },
      },
    },
  };
});
